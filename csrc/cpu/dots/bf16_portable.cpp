#define COFI_LANES 4
namespace cofi::dots {
namespace {
constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 2};  // of a tile of 1, 2, ... panels
}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/bf16_emulated.inl"

namespace cofi::dots {

extern const Kernels kBf16Portable = kKernels;

}  // namespace cofi::dots
