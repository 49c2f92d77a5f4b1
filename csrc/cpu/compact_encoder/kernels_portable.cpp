#include "cpu/compact_encoder/kernels.inl"

namespace cofi::compact_encoder {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::compact_encoder
