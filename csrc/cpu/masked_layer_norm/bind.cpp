// Rows in pieces of fixed size: their partial sums are added in order, so the result does not depend on the threads.
#include "common/bind.h"

#include <algorithm>

#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/masked_layer_norm/kernels.h"

namespace cofi::masked_layer_norm {
namespace {

constexpr int64_t kGrain = 64;  // rows to a thread at a time: some 50 us at 768 dims

// weight and bias times z_hidden, and K, in memory of the calling thread.
Norm prepare(const float* weight, const float* bias, const float* z_hidden, int64_t hidden, Buffer& buffer) {
  float* made = buffer.at_least<float>(3 * hidden);
  float *scaled = made, *shift = made + hidden, *kept = made + 2 * hidden;
  int64_t count = 0;
  for (int64_t j = 0; j < hidden; ++j) {
    const float z = z_hidden ? z_hidden[j] : 1.0f;
    kept[j] = z != 0.0f ? 1.0f : 0.0f;
    count += z != 0.0f;
    scaled[j] = weight[j] * z;
    shift[j] = bias[j] * z;
  }
  return {scaled, shift, kept, 1.0f / static_cast<float>(std::max<int64_t>(count, 1)), hidden};
}

// residual, z_hidden and state may be 0.
void forward(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, uintptr_t z_hidden, float eps,
             uintptr_t state, int32_t threshold, float scale, uintptr_t y, uintptr_t mean, uintptr_t rstd,
             int64_t tokens, int64_t hidden, int threads) {
  thread_local Buffer parameters;
  const Kernels& use = kernels();
  const Norm norm =
      prepare(as<const float>(weight), as<const float>(bias), as<const float>(z_hidden), hidden, parameters);
  const Dropout dropout{as<const int64_t>(state), threshold, scale};
  parallel_for(tokens, kGrain, threads, [&](int64_t begin, int64_t end) {
    thread_local Buffer room;
    use.forward(norm, dropout, {as<const float>(x), as<const float>(residual), begin, end}, eps, as<float>(y),
                as<float>(mean), as<float>(rstd), room.at_least<float>(hidden));
  });
}

// sums: (2, hidden), sum over rows of dy n and of dy. dresidual may be 0.
void backward(uintptr_t dy, uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, uintptr_t z_hidden,
              uintptr_t state, int32_t threshold, float scale, uintptr_t mean, uintptr_t rstd, uintptr_t dx,
              uintptr_t dresidual, uintptr_t sums, int64_t tokens, int64_t hidden, int threads) {
  thread_local Buffer parameters, partial;
  const Kernels& use = kernels();
  const Norm norm =
      prepare(as<const float>(weight), as<const float>(bias), as<const float>(z_hidden), hidden, parameters);
  const Dropout dropout{as<const int64_t>(state), threshold, scale};
  const int64_t pieces = (tokens + kGrain - 1) / kGrain;
  float* parts = partial.at_least<float>(pieces * 2 * hidden);
  parallel_for(tokens, kGrain, threads, [&](int64_t begin, int64_t end) {
    thread_local Buffer room;
    float* own = parts + begin / kGrain * 2 * hidden;
    std::fill(own, own + 2 * hidden, 0.0f);
    use.backward(norm, dropout, {as<const float>(x), as<const float>(residual), begin, end}, as<const float>(dy),
                 as<const float>(mean), as<const float>(rstd), as<float>(dx), as<float>(dresidual), own, own + hidden,
                 room.at_least<float>(2 * hidden));
  });
  float* total = as<float>(sums);
  std::fill(total, total + 2 * hidden, 0.0f);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    for (int64_t j = 0; j < 2 * hidden; ++j) total[j] += parts[piece * 2 * hidden + j];
  }
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("masked_layer_norm", &forward, arg("x"), arg("residual"), arg("weight"), arg("bias"), arg("z_hidden"),
        arg("eps"), arg("state"), arg("threshold"), arg("scale"), arg("y"), arg("mean"), arg("rstd"), arg("tokens"),
        arg("hidden"), arg("threads"), ReleaseGil());
  m.def("masked_layer_norm_backward", &backward, arg("dy"), arg("x"), arg("residual"), arg("weight"), arg("bias"),
        arg("z_hidden"), arg("state"), arg("threshold"), arg("scale"), arg("mean"), arg("rstd"), arg("dx"),
        arg("dresidual"), arg("sums"), arg("tokens"), arg("hidden"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::masked_layer_norm
