#include "common/cpu_features.h"

#include <algorithm>
#include <atomic>

#if defined(COFI_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

std::atomic<Isa> limit{Isa::amx};

// Linux keeps tiles for those processes alone that ask for it; all threads of the process then have them.
bool detect_amx() {
#if defined(COFI_HAS_AMX)
  // the kernels of tiles round and convert with these, which a hypervisor may hide by themselves
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bf16")) return false;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kBf16 = 1u << 22, kWanted = kTile | kInt8 | kBf16;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kWanted) != kWanted) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of asm/prctl.h, which older systems lack
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

Isa isa() {
  static const Isa best = detect();
  return std::min(best, limit.load(std::memory_order_relaxed));
}

bool has_amx() {
  static const bool found = detect() == Isa::avx512 && detect_amx();
  return found && limit.load(std::memory_order_relaxed) == Isa::amx;
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
