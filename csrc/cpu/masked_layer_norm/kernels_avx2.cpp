#include "cpu/masked_layer_norm/kernels.inl"

namespace cofi::masked_layer_norm {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::masked_layer_norm
