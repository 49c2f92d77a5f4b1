// 16 registers of 4 lanes, as SSE2 and NEON have at least.
#define COFI_LANES 4
namespace cofi::gemm {
namespace {
constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 2};  // of a tile of 1, 2, ... panels
}  // namespace
}  // namespace cofi::gemm

#include "cpu/gemm/kernels.inl"

namespace cofi::gemm {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::gemm
