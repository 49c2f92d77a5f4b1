#include "cpu/first_token_head/kernels.h"

#include "common/cpu_features.h"

namespace cofi::first_token_head {

const Kernels& kernels() {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return kAvx512;
  if (isa() == Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

}  // namespace cofi::first_token_head
