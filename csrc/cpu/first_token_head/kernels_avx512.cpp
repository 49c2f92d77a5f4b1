// 32 registers of 16 lanes: 24 sums, six rows and a weight.
#define COFI_LANES 16
namespace cofi::first_token_head {
namespace {
constexpr int kMaxRows = 6;  // of a tile
}  // namespace
}  // namespace cofi::first_token_head

#include "cpu/first_token_head/kernels.inl"

namespace cofi::first_token_head {

extern const Kernels kAvx512 = kKernels;

}  // namespace cofi::first_token_head
