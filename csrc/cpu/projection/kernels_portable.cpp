#include "cpu/projection/kernels.inl"

namespace cofi::projection {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::projection
