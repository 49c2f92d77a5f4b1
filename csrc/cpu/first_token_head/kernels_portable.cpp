#include "cpu/first_token_head/kernels.inl"

namespace cofi::first_token_head {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::first_token_head
