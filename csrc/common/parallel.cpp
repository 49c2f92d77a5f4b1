#include "common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace cofi {
namespace {

// One call of parallel_for: its pieces are handed out by an atomic counter.
class Job {
 public:
  Job(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body)
      : n_(n), grain_(grain), body_(body) {}

  void work() {
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

// Workers sleep between jobs. `helpers_wanted_` is how many more of them the current job may take.
class Pool {
 public:
  // Run `job` with `helpers` workers beside the caller; false, having done nothing, while another job runs.
  bool run(Job& job, int helpers) {
    if (taken_.exchange(true, std::memory_order_acquire)) return false;  // no mutex: the caller itself may hold it
    const Turn turn(taken_);
    start(job, helpers);
    job.work();
    finish();
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

  // Workers that never woke are not waited for: the caller may have done everything by then.
  void finish() {
    std::unique_lock<std::mutex> lock(mutex_);
    helpers_wanted_ = 0;
    done_.wait(lock, [this] { return helpers_busy_ == 0; });
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

}  // namespace

void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body) {
  grain = std::max<int64_t>(grain, 1);
  const int64_t pieces = n <= 0 ? 0 : (n - 1) / grain + 1;
  Job job(n, grain, body);
  const int helpers = static_cast<int>(std::min<int64_t>(std::max(threads, 1), pieces)) - 1;
  if (helpers <= 0 || !current_pool().run(job, helpers)) job.work();
  job.rethrow();
}

}  // namespace cofi
