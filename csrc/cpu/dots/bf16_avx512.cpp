#define COFI_LANES 16
namespace cofi::dots {
namespace {
constexpr int kMaxPanels = 2;
constexpr int kMaxRows[] = {0, 12, 8};  // of a tile of 1, 2, ... panels
}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/bf16_emulated.inl"

namespace cofi::dots {

extern const Kernels kBf16Avx512 = kKernels;

}  // namespace cofi::dots
