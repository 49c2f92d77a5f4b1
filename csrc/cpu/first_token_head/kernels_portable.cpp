// 16 registers of 4 lanes, as SSE2 and NEON have at least: 8 sums.
#define COFI_LANES 4
namespace cofi::first_token_head {
namespace {
constexpr int kMaxRows = 2;  // of a tile
}  // namespace
}  // namespace cofi::first_token_head

#include "cpu/first_token_head/kernels.inl"

namespace cofi::first_token_head {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::first_token_head
