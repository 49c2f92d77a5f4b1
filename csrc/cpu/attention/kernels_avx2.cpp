#include "cpu/attention/kernels.inl"

namespace cofi::attention {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::attention
