#include "cpu/hard_concrete/kernels.inl"

namespace cofi::hard_concrete {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::hard_concrete
