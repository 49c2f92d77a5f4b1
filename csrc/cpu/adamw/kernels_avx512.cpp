#include "cpu/adamw/kernels.inl"

namespace cofi::adamw {

extern const Kernels kAvx512 = kKernels;

}  // namespace cofi::adamw
