// 16 registers of 8 lanes: 8 sums, two rows and a weight.
#define COFI_LANES 8
namespace cofi::first_token_head {
namespace {
constexpr int kMaxRows = 2;  // of a tile
}  // namespace
}  // namespace cofi::first_token_head

#include "cpu/first_token_head/kernels.inl"

namespace cofi::first_token_head {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::first_token_head
