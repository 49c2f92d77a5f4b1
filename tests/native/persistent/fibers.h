// Threads of a cluster of thread blocks as fibers of one thread: each runs until it waits for others.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

namespace emulated {

class Fibers {
 public:
  static constexpr std::size_t kStackBytes = 96 * 1024;

  // Runs body(i) for i in [0, n), in an order of the seed's choosing; `each_round` whenever all have had a turn.
  void run(int n, unsigned seed, std::function<void(int)> body, std::function<bool()> each_round) {
    body_ = std::move(body);
    std::mt19937 random(seed);
    fibers_.clear();
    for (int i = 0; i < n; ++i) fibers_.push_back(std::make_unique<Fiber>());
    std::vector<int> order(n);
    for (int i = 0; i < n; ++i) order[i] = i;
    int running = n, idle_rounds = 0;
    while (running > 0) {
      if (seed != 0) std::swap(order[random() % n], order[random() % n]);
      progress_ = false;
      for (int i : order) {
        if (!fibers_[i]->is_done) enter(i);
        running -= fibers_[i]->is_done && !fibers_[i]->is_counted;
        fibers_[i]->is_counted = fibers_[i]->is_done;
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      }
      progress_ |= each_round();
      idle_rounds = progress_ ? 0 : idle_rounds + 1;
      if (idle_rounds > 1000) throw std::runtime_error("deadlock: every thread waits");
    }
  }

  // In a fiber: give way until `ready`.
  template <class Ready>
  void wait(Ready ready) {
    while (!ready()) yield();
    progress_ = true;
  }

 private:
  struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    bool is_started = false, is_done = false, is_counted = false;
  };

  void enter(int i) {
    Fiber& fiber = *fibers_[i];
    current_ = i;
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.is_started) _longjmp(fiber.place, 1);
    fiber.is_started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Fibers::start), 2, static_cast<unsigned>(self),
                static_cast<unsigned>(self >> 32));
    setcontext(&fiber.context);
  }

  static void start(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fibers*>(static_cast<uintptr_t>(high) << 32 | low);
    const int i = self->current_;
    try {
      self->body_(i);
    } catch (...) {
      self->error_ = std::current_exception();
    }
    self->progress_ = true;
    self->fibers_[i]->is_done = true;
    _longjmp(self->scheduler_, 1);
  }

  void yield() {
    Fiber& fiber = *fibers_[current_];
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler_, 1);
  }

  std::function<void(int)> body_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  jmp_buf scheduler_;
  int current_ = 0;
  bool progress_ = false;
  std::exception_ptr error_;
};

}  // namespace emulated
