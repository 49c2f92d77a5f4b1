#include "common/cpu_features.h"

#include <algorithm>
#include <atomic>

namespace cofi {
namespace {

Isa detect() {
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

std::atomic<Isa> limit{Isa::avx512};

}  // namespace

Isa isa() {
  static const Isa best = detect();
  return std::min(best, limit.load(std::memory_order_relaxed));
}

bool has_vnni() {
#if defined(__x86_64__)
  static const bool found = __builtin_cpu_supports("avx512vnni");
  return found && isa() == Isa::avx512;
#else
  return false;
#endif
}

bool has_bf16() {
#if defined(__x86_64__)
  static const bool found = __builtin_cpu_supports("avx512bf16");
  return found && isa() == Isa::avx512;
#else
  return false;
#endif
}

void limit_isa(Isa value) { limit.store(value, std::memory_order_relaxed); }

}  // namespace cofi
