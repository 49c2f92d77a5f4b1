#include "cpu/compact_encoder/kernels.inl"

namespace cofi::compact_encoder {

extern const Kernels kAvx512 = kKernels;

}  // namespace cofi::compact_encoder
