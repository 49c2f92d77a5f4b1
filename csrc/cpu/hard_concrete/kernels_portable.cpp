#include "cpu/hard_concrete/kernels.inl"

namespace cofi::hard_concrete {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::hard_concrete
