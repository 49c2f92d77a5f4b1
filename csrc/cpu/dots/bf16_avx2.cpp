#define COFI_LANES 8
namespace cofi::dots {
namespace {
constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 4};  // of a tile of 1, 2, ... panels
}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/bf16_emulated.inl"

namespace cofi::dots {

extern const Kernels kBf16Avx2 = kKernels;

}  // namespace cofi::dots
