#include "cpu/masked_layer_norm/kernels.inl"

namespace cofi::masked_layer_norm {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::masked_layer_norm
