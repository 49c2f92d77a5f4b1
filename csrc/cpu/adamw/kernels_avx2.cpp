#include "cpu/adamw/kernels.inl"

namespace cofi::adamw {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::adamw
