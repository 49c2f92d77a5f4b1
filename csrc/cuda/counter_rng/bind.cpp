#include "common/cuda_bind.h"
#include "cuda/counter_rng/counter_rng.h"

namespace cofi::counter_rng {
namespace {

void define_dropout(pybind11::module_& m, const char* name, Storage storage) {
  using pybind11::arg;
  m.def(
      name,
      [storage](uintptr_t x, uintptr_t y, uintptr_t state, int64_t n, int32_t threshold, double scale,
                uintptr_t stream) {
        check(dropout(storage, as<const void>(x), as<void>(y), as<const int64_t>(state), n, threshold, scale,
                      as_stream(stream)),
              "counter_dropout");
      },
      arg("x"), arg("y"), arg("state"), arg("n"), arg("threshold"), arg("scale"), arg("stream"), ReleaseGil());
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def(
      "counter_uniform",
      [](uintptr_t state, uintptr_t u, int64_t n, uintptr_t stream) {
        check(uniform(as<const int64_t>(state), as<float>(u), n, as_stream(stream)), "counter_uniform");
      },
      arg("state"), arg("u"), arg("n"), arg("stream"), ReleaseGil());
  define_dropout(m, "counter_dropout_float32", Storage::float32);
  define_dropout(m, "counter_dropout_float16", Storage::float16);
  define_dropout(m, "counter_dropout_bfloat16", Storage::bfloat16);
  define_dropout(m, "counter_dropout_float64", Storage::float64);
}

}  // namespace cofi::counter_rng
