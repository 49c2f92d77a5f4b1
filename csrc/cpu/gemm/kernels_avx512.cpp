// 32 registers of 16 lanes: 24 sums, a row of B and a broadcast.
#define COFI_LANES 16
namespace cofi::gemm {
namespace {
constexpr int kMaxPanels = 4;
constexpr int kMaxRows[] = {0, 14, 12, 8, 6};  // of a tile of 1, 2, ... panels
}  // namespace
}  // namespace cofi::gemm

#include "cpu/gemm/kernels.inl"

namespace cofi::gemm {

extern const Kernels kAvx512 = kKernels;

}  // namespace cofi::gemm
