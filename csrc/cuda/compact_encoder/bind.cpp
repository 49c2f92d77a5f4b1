#include "common/cuda_bind.h"
#include "cuda/compact_encoder/encoder.cuh"
#include "cuda/compact_encoder/plan_bind.h"

namespace cofi::compact_encoder {
namespace {

// Of the current device: multiprocessors, bytes of shared memory of a thread block, thread blocks of a cluster.
std::array<int, 3> gpu() {
  int device = 0;
  std::array<int, 3> found{};
  check(cudaGetDevice(&device), "encoder_gpu");
  check(cudaDeviceGetAttribute(&found[0], cudaDevAttrMultiProcessorCount, device), "encoder_gpu");
  check(cudaDeviceGetAttribute(&found[1], cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "encoder_gpu");
  check(most_cluster(&found[2]), "encoder_gpu");
  return found;
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  define_plan(m);
  m.def("encoder_gpu", &gpu, "What encoder_plan is to know of the current device.");
  m.def(
      "encoder_run",
      [](const Plan& plan, uintptr_t x, uintptr_t out, uintptr_t bounds, uintptr_t weights, uintptr_t vectors,
         uintptr_t sublayers, uintptr_t stages, int rows, int sequences, bool is_fp16, uintptr_t stream) {
        const Arguments a = arguments_of(plan, x, out, bounds, weights, vectors, sublayers, stages, rows, sequences);
        check(launch_encoder(a, is_fp16, as_stream(stream)), "encoder_run");
      },
      arg("plan"), arg("x"), arg("out"), arg("bounds"), arg("weights"), arg("vectors"), arg("sublayers"), arg("stages"),
      arg("rows"), arg("sequences"), arg("is_fp16"), arg("stream"), ReleaseGil());
}

}  // namespace cofi::compact_encoder
