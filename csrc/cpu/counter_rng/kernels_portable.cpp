#include "cpu/counter_rng/kernels.inl"

namespace cofi::counter_rng {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::counter_rng
