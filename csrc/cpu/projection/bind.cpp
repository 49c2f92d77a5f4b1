// Rows in pieces of fixed size: their partial sums are added in order, so the result does not depend on the threads.
#include "common/bind.h"

#include <algorithm>

#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/projection/kernels.h"

namespace cofi::projection {
namespace {

constexpr int64_t kGrain = 64;  // rows to a thread at a time

// product (rows, width) is changed in place. unit, scale: 0 for ones.
void gradients(uintptr_t product, uintptr_t weight, uintptr_t unit, uintptr_t scale, uintptr_t dunit, uintptr_t total,
               int64_t rows, int64_t width, int threads) {
  thread_local Buffer buffer;
  const int64_t pieces = (rows + kGrain - 1) / kGrain;
  float* parts = buffer.at_least<float>(pieces * width);
  parallel_for(rows, kGrain, threads, [&](int64_t begin, int64_t end) {
    float* own = parts + begin / kGrain * width;
    std::fill(own, own + width, 0.0f);
    kernels().gradients(as<float>(product) + begin * width, as<const float>(weight) + begin * width,
                        unit ? as<const float>(unit) + begin : nullptr, as<const float>(scale), end - begin, width,
                        as<float>(dunit) + begin, own);
  });
  float* sum = as<float>(total);
  std::fill(sum, sum + width, 0.0f);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    for (int64_t e = 0; e < width; ++e) sum[e] += parts[piece * width + e];
  }
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("projection_gradients", &gradients, arg("product"), arg("weight"), arg("unit"), arg("scale"), arg("dunit"),
        arg("total"), arg("rows"), arg("width"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::projection
