#include "common/cuda_bind.h"
#include "cuda/compact_encoder/encoder.cuh"
#include "cuda/compact_encoder/plan_bind.h"

namespace cofi::compact_encoder {
namespace {

// The current device as `gpu_of` takes it.
std::vector<int> numbers_of_gpu() {
  Gpu gpu{};
  check(describe_gpu(&gpu), "encoder_gpu");
  std::vector<int> numbers{gpu.multiprocessors, gpu.shared_bytes, gpu.max_cluster};
  numbers.insert(numbers.end(), gpu.resident.begin(), gpu.resident.end());
  return numbers;
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  define_plan(m);
  m.def("encoder_gpu", &numbers_of_gpu, "What encoder_plan is to know of the current device.");
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
