#include "cpu/attention/kernels.inl"

namespace cofi::attention {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::attention
