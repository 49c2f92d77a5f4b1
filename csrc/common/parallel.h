// Threads for every CPU kernel. Inside a process with torch they are those of torch's OpenMP runtime: its idle threads
// spin for some milliseconds after each operator, and on as many cores as threads a second pool would wait for them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace cofi {

// Call body(begin, end) for the pieces [0, grain), [grain, 2 grain), ... of [0, n), on up to `threads` threads, the
// caller's own among them. The pieces depend on n and grain alone, so a reduction that writes one partial result per
// piece (number begin / grain) gives the same bits for any number of threads. Which thread takes which piece is open.
// Returns when all are done. The first exception that body throws is rethrown here. Calls from several threads, and
// from inside a body, are allowed: where the pool is taken, the caller does its work alone.
void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body);

// The threads of one parallel_team.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  int size() const { return size_; }
  // Returns when all threads of the team have called it. What they wrote before is seen by all after.
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

// Call body(rank, team) on team.size() <= threads threads at once, ranks from 0; the caller is rank 0. Where the pool
// is taken the team is the caller alone. A body that throws ends the process: the others would wait for it for ever.
void parallel_team(int threads, const std::function<void(int, Team&)>& body);

}  // namespace cofi
