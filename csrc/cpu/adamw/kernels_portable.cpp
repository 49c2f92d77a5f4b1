#include "cpu/adamw/kernels.inl"

namespace cofi::adamw {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::adamw
