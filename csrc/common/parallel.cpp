#include "common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "common/openmp.h"

namespace cofi {
namespace {

constexpr int kSpins = 2000;  // some 30 us, longer than threads of one team differ unless a core is missing

// What the threads of a call do: each of them calls work() once.
class Job {
 public:
  virtual void work() = 0;

 protected:
  ~Job() = default;
};

// One call of parallel_for: its pieces are handed out by an atomic counter.
class Pieces final : public Job {
 public:
  Pieces(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body)
      : n_(n), grain_(grain), body_(body) {}

  void work() override {
    for (;;) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= n_) return;
      try {
        body_(begin, std::min(begin + grain_, n_));
      } catch (...) {
        keep(std::current_exception());
      }
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void keep(std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = error;
    next_.store(n_, std::memory_order_relaxed);  // the pieces not yet taken are dropped
  }

  const int64_t n_;
  const int64_t grain_;
  const std::function<void(int64_t, int64_t)>& body_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

// One call of parallel_team: ranks in the order of arrival, once the size of the team is known.
class Members final : public Job {
 public:
  Members(int size, const std::function<void(int, Team&)>& body) : team_(size), body_(body) {}

  void work() noexcept override { body_(next_.fetch_add(1, std::memory_order_relaxed), team_); }

 private:
  Team team_;
  const std::function<void(int, Team&)>& body_;
  std::atomic<int> next_{0};
};

// Workers sleep between jobs. `helpers_wanted_` is how many more of them the current job may take.
class Pool {
 public:
  // Run `job` with `helpers` workers beside the caller; false, having done nothing, while another job runs.
  // `all`: return only after every one of the helpers has taken part.
  bool run(Job& job, int helpers, bool all) {
    if (taken_.exchange(true, std::memory_order_acquire)) return false;  // no mutex: the caller itself may hold it
    const Turn turn(taken_);
    start(job, helpers);
    job.work();
    finish(all);
    return true;
  }

 private:
  struct Turn {
    explicit Turn(std::atomic<bool>& taken) : taken(taken) {}
    ~Turn() { taken.store(false, std::memory_order_release); }
    std::atomic<bool>& taken;
  };

  void start(Job& job, int helpers) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (static_cast<int>(workers_.size()) < helpers) workers_.emplace_back([this] { serve(); });
    job_ = &job;
    helpers_wanted_ = helpers;
    wake_.notify_all();
  }

  // Workers that never woke are not waited for unless `all`: the caller may have done everything by then.
  void finish(bool all) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!all) helpers_wanted_ = 0;
    done_.wait(lock, [this] { return helpers_busy_ == 0 && helpers_wanted_ == 0; });
    job_ = nullptr;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return helpers_wanted_ > 0; });
      --helpers_wanted_;
      ++helpers_busy_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--helpers_busy_ == 0) done_.notify_one();
    }
  }

  std::atomic<bool> taken_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  int helpers_wanted_ = 0;
  int helpers_busy_ = 0;
};

// Never destroyed: its workers would have to be joined while the interpreter is being torn down. A forked child has
// the memory of the pool and none of its threads, so it gets a new one.
std::atomic<Pool*> pool{nullptr};

Pool& current_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
  });
  return *pool.load();
}

// An exception ends the process here.
void run_body(const std::function<void(int, Team&)>& body, int rank, Team& team) noexcept { body(rank, team); }

// The runtime may give fewer threads than were asked for, and says how many only inside: the first to come makes the
// team.
struct Region {
  const std::function<void(int, Team&)>& body;
  std::once_flag once;
  std::optional<Team> team;

  static void enter(void* data) {
    Region& region = *static_cast<Region*>(data);
    std::call_once(region.once, [&] { region.team.emplace(openmp::size()); });
    run_body(region.body, openmp::rank(), *region.team);
  }
};

bool run_in_pool(Job& job, int threads, bool all) { return current_pool().run(job, threads - 1, all); }

// A turn of the processor's pause, and after some of them the core itself: another thread of the team may need it.
void relax(int turn) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
  if (turn > kSpins) std::this_thread::yield();
}

}  // namespace

void Team::wait() {
  if (size_ == 1) return;
  const int round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int turn = 0; round_.load(std::memory_order_acquire) == round; ++turn) relax(turn);
}

void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body) {
  grain = std::max<int64_t>(grain, 1);
  const int64_t pieces = n <= 0 ? 0 : (n - 1) / grain + 1;
  Pieces job(n, grain, body);
  const int wanted = static_cast<int>(std::min<int64_t>(std::max(threads, 1), pieces));
  if (wanted <= 1) {
    job.work();
  } else if (openmp::available()) {
    openmp::run(wanted, [](void* data) { static_cast<Pieces*>(data)->work(); }, &job);
  } else if (!run_in_pool(job, wanted, false)) {
    job.work();
  }
  job.rethrow();
}

void parallel_team(int threads, const std::function<void(int, Team&)>& body) {
  Team alone(1);
  if (threads <= 1) return run_body(body, 0, alone);
  if (openmp::available()) {
    Region region{body, {}, {}};
    return openmp::run(threads, &Region::enter, &region);
  }
  Members job(threads, body);
  if (!run_in_pool(job, threads, true)) run_body(body, 0, alone);
}

}  // namespace cofi
