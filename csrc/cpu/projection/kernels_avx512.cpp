#include "cpu/projection/kernels.inl"

namespace cofi::projection {

extern const Kernels kAvx512 = kKernels;

}  // namespace cofi::projection
