#include "common/bind.h"

#include "common/parallel.h"
#include "cpu/counter_rng/kernels.h"

namespace cofi::counter_rng {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a thread takes at a time: tens of microseconds

void uniform(uintptr_t state, uintptr_t u, int64_t n, int threads, int64_t first) {
  const Kernels& k = kernels();
  parallel_for(n, kGrain, threads, [&](int64_t begin, int64_t end) {
    k.uniform(as<const int64_t>(state), first + begin, end - begin, as<float>(u) + begin);
  });
}

template <typename T>
using Dropout = void (*)(const int64_t*, int64_t, int64_t, int32_t, double, const T*, T*);

template <typename T>
void dropout(Dropout<T> Kernels::* kernel, uintptr_t x, uintptr_t y, uintptr_t state, int64_t n, int32_t threshold,
             double scale, int threads) {
  const Dropout<T> run = kernels().*kernel;
  parallel_for(n, kGrain, threads, [&](int64_t begin, int64_t end) {
    run(as<const int64_t>(state), begin, end - begin, threshold, scale, as<const T>(x) + begin, as<T>(y) + begin);
  });
}

template <typename T>
void define_dropout(pybind11::module_& m, const char* name, Dropout<T> Kernels::* kernel) {
  using pybind11::arg;
  m.def(
      name,
      [kernel](uintptr_t x, uintptr_t y, uintptr_t state, int64_t n, int32_t threshold, double scale, int threads) {
        dropout(kernel, x, y, state, n, threshold, scale, threads);
      },
      arg("x"), arg("y"), arg("state"), arg("n"), arg("threshold"), arg("scale"), arg("threads"), ReleaseGil());
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("counter_uniform", &uniform, arg("state"), arg("u"), arg("n"), arg("threads"), arg("first") = 0, ReleaseGil());
  define_dropout(m, "counter_dropout_float32", &Kernels::dropout_float);
  define_dropout(m, "counter_dropout_bfloat16", &Kernels::dropout_bfloat16);
  define_dropout(m, "counter_dropout_float64", &Kernels::dropout_double);
}

}  // namespace cofi::counter_rng
