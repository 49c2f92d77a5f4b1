// Exercises parallel_for from C++; each check prints what failed. Exit code 0 when all hold.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/parallel.h"

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

// Every element is visited once, in pieces that start at multiples of the grain.
bool covers(int64_t n, int64_t grain, int threads) {
  std::vector<std::atomic<int>> visits(n);
  std::atomic<bool> aligned{true};
  cofi::parallel_for(n, grain, threads, [&](int64_t begin, int64_t end) {
    if (begin % grain != 0 || end - begin > grain) aligned = false;
    for (int64_t i = begin; i < end; ++i) ++visits[i];
  });
  for (const auto& count : visits) {
    if (count != 1) return false;
  }
  return aligned;
}

void from_many_threads() {
  std::atomic<int> good{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) good += covers(97, 5, 3);
    });
  }
  for (auto& caller : callers) caller.join();
  expect(good == 4 * 50, "calls from several threads");
}

void nested() {
  std::atomic<int> total{0};
  cofi::parallel_for(8, 1, 4, [&](int64_t, int64_t) {
    cofi::parallel_for(10, 3, 4, [&](int64_t begin, int64_t end) { total += static_cast<int>(end - begin); });
  });
  expect(total == 80, "a call inside a body");
}

// Every rank comes once, and after a meeting each sees what the others wrote before it.
bool team_meets(int threads) {
  std::vector<int> written(threads, 0);
  std::atomic<int> members{0}, good{0}, size{0};
  cofi::parallel_team(threads, [&](int rank, cofi::Team& team) {
    size = team.size();
    ++members;
    for (int round = 1; round <= 20; ++round) {
      written[rank] = round;
      team.wait();
      bool all = true;
      for (int r = 0; r < team.size(); ++r) all = all && written[r] == round;
      good += all;
      team.wait();
    }
  });
  return members == size && size <= threads && size >= 1 && good == 20 * size;
}

void teams() {
  for (int round = 0; round < 100; ++round) expect(team_meets(1 + round % 4), "a team");
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) callers.emplace_back([] { expect(team_meets(3), "teams of several threads at once"); });
  for (auto& caller : callers) caller.join();
  std::atomic<int> alone{0};
  cofi::parallel_for(4, 1, 2, [&](int64_t, int64_t) { cofi::parallel_team(3, [&](int, cofi::Team&) { ++alone; }); });
  expect(alone >= 4, "a team inside a body");
}

void exception_reaches_caller() {
  bool caught = false;
  try {
    cofi::parallel_for(100, 1, 4, [](int64_t begin, int64_t) {
      if (begin == 37) throw std::runtime_error("piece 37");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  expect(caught, "an exception of the body");
  expect(covers(100, 1, 4), "a call after an exception");
}

void after_fork() {
  const pid_t child = fork();
  if (child == 0) _exit(covers(100, 1, 4) && team_meets(3) ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  expect(status == 0, "a call in a forked child");
}

}  // namespace

int main(int argc, char**) {
  expect(covers(0, 4, 3) && covers(1, 4, 3) && covers(3, 4, 3), "fewer elements than a piece");
  expect(covers(1000, 7, 1) && covers(1000, 7, 4), "one thread and several");
  for (int round = 0; round < 500; ++round) expect(covers(64, 3, 1 + round % 6), "many short calls");
  from_many_threads();
  nested();
  teams();
  exception_reaches_caller();
  if (argc == 1) after_fork();  // an argument leaves it out: thread sanitizers do not follow a fork with threads
  return failures == 0 ? 0 : 1;
}
