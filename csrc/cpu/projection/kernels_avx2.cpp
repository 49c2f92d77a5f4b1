#include "cpu/projection/kernels.inl"

namespace cofi::projection {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::projection
