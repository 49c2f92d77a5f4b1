#include "cpu/counter_rng/kernels.inl"

namespace cofi::counter_rng {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::counter_rng
