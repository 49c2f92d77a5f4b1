#include "cpu/projection/kernels.h"

#include "common/cpu_features.h"

namespace cofi::projection {

const Kernels& kernels() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return kAvx512;
  if (isa() == Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

}  // namespace cofi::projection
