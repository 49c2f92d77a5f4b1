#include "cpu/first_token_head/kernels.inl"

namespace cofi::first_token_head {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::first_token_head
