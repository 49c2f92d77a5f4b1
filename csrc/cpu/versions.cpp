// Which version of its kernels each family uses: the best for the processor, or for the limit of `limit_isa`.
#include "common/cpu_features.h"
#include "cpu/adamw/kernels.h"
#include "cpu/attention/kernels.h"
#include "cpu/compact_encoder/kernels.h"
#include "cpu/counter_rng/kernels.h"
#include "cpu/first_token_head/kernels.h"
#include "cpu/gemm/gemm.h"
#include "cpu/hard_concrete/kernels.h"
#include "cpu/masked_layer_norm/kernels.h"
#include "cpu/projection/kernels.h"

namespace cofi {

// A macro and not a template: the names of versions that this platform does not compile must not be used.
#if defined(__x86_64__)
#define COFI_CHOOSE(family)                           \
  const family::Kernels& family::kernels() {          \
    if (isa() == Isa::avx512) return family::kAvx512; \
    if (isa() == Isa::avx2) return family::kAvx2;     \
    return family::kPortable;                         \
  }
#else
#define COFI_CHOOSE(family) \
  const family::Kernels& family::kernels() { return family::kPortable; }
#endif

COFI_CHOOSE(adamw)
COFI_CHOOSE(attention)
COFI_CHOOSE(compact_encoder)
COFI_CHOOSE(counter_rng)
COFI_CHOOSE(first_token_head)
COFI_CHOOSE(gemm)
COFI_CHOOSE(hard_concrete)
COFI_CHOOSE(masked_layer_norm)
COFI_CHOOSE(projection)

#undef COFI_CHOOSE

}  // namespace cofi
