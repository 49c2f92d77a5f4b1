#include "cpu/attention/kernels.inl"

namespace cofi::attention {

extern const Kernels kAvx512 = kKernels;

}  // namespace cofi::attention
