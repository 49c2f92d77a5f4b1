#include "common/openmp.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

namespace cofi::openmp {
namespace {

// Entry points of GNU's runtime; LLVM's offers the same names for code compiled by GCC.
struct Runtime {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
  int (*in_parallel)() = nullptr;

  bool complete() const { return parallel && thread_num && num_threads && in_parallel; }
};

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

std::atomic<bool> forked{false};

}  // namespace

void watch_forks() {
  static const int watched = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
  (void)watched;
}

namespace {

const Runtime& runtime() {
  static const Runtime found = [] {
    watch_forks();
    Runtime r;
    find(r.parallel, "GOMP_parallel");
    find(r.thread_num, "omp_get_thread_num");
    find(r.num_threads, "omp_get_num_threads");
    find(r.in_parallel, "omp_in_parallel");
    return r;
  }();
  return found;
}

}  // namespace

bool available() { return runtime().complete() && !forked.load(std::memory_order_relaxed) && !runtime().in_parallel(); }

void run(int threads, void (*body)(void*), void* data) {
  runtime().parallel(body, data, static_cast<unsigned>(threads), 0);
}

int rank() { return runtime().thread_num(); }
int size() { return runtime().num_threads(); }

}  // namespace cofi::openmp
