// 16 registers of 8 lanes: 12 sums, a row of B and a broadcast.
#define COFI_LANES 8
namespace cofi::gemm {
namespace {
constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 6};  // of a tile of 1, 2, ... panels
}  // namespace
}  // namespace cofi::gemm

#include "cpu/gemm/kernels.inl"

namespace cofi::gemm {

extern const Kernels kAvx2 = kKernels;

}  // namespace cofi::gemm
