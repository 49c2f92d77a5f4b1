#include "common/bind.h"

#include "common/parallel.h"
#include "cpu/hard_concrete/kernels.h"
#include "cpu/hard_concrete/vectors.h"

namespace cofi::hard_concrete {
namespace {

constexpr int64_t kGrain = 1 << 14;  // gates a thread takes at a time: tens of microseconds

// Of the two sources of noise one address is 0.
Noise noise_at(uintptr_t u, uintptr_t state) { return {as<const float>(u), as<const int64_t>(state)}; }

void sample(uintptr_t loga, uintptr_t u, uintptr_t state, uintptr_t z, int64_t n, float temperature, int threads) {
  const Kernels& k = kernels();
  parallel_for(n, kGrain, threads, [&](int64_t begin, int64_t end) {
    k.sample(as<const float>(loga), noise_at(u, state), begin, end, temperature, as<float>(z));
  });
}

void sample_backward(uintptr_t dz, uintptr_t loga, uintptr_t u, uintptr_t state, uintptr_t dloga, int64_t n,
                     float temperature, int threads) {
  const Kernels& k = kernels();
  parallel_for(n, kGrain, threads, [&](int64_t begin, int64_t end) {
    k.sample_backward(as<const float>(dz), as<const float>(loga), noise_at(u, state), begin, end, temperature,
                      as<float>(dloga));
  });
}

void keep(uintptr_t loga, uintptr_t p, int64_t n, float zero_point, int threads) {
  const Kernels& k = kernels();
  parallel_for(n, kGrain, threads, [&](int64_t begin, int64_t end) {
    k.keep(as<const float>(loga), begin, end, zero_point, as<float>(p));
  });
}

void keep_backward(uintptr_t dp, uintptr_t loga, uintptr_t dloga, int64_t n, float zero_point, int threads) {
  const Kernels& k = kernels();
  parallel_for(n, kGrain, threads, [&](int64_t begin, int64_t end) {
    k.keep_backward(as<const float>(dp), as<const float>(loga), begin, end, zero_point, as<float>(dloga));
  });
}

void deterministic(uintptr_t loga, uintptr_t offsets, uintptr_t z, int64_t vectors, float zero_point, float scale,
                   int threads) {
  parallel_for(vectors, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t first = as<const int32_t>(offsets)[v], size = as<const int32_t>(offsets)[v + 1] - first;
      deterministic_vector(as<const float>(loga) + first, size, zero_point, scale, as<float>(z) + first);
    }
  });
}

void live(uintptr_t z, uintptr_t offsets, uintptr_t indices, uintptr_t counts, int64_t vectors, int threads) {
  parallel_for(vectors, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t first = as<const int32_t>(offsets)[v], size = as<const int32_t>(offsets)[v + 1] - first;
      as<int32_t>(counts)[v] = live_in_vector(as<const float>(z) + first, size, as<int32_t>(indices) + first);
    }
  });
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("hard_concrete", &sample, arg("loga"), arg("u"), arg("state"), arg("z"), arg("n"), arg("temperature"),
        arg("threads"), ReleaseGil());
  m.def("hard_concrete_backward", &sample_backward, arg("dz"), arg("loga"), arg("u"), arg("state"), arg("dloga"),
        arg("n"), arg("temperature"), arg("threads"), ReleaseGil());
  m.def("keep_probability", &keep, arg("loga"), arg("p"), arg("n"), arg("zero_point"), arg("threads"), ReleaseGil());
  m.def("keep_probability_backward", &keep_backward, arg("dp"), arg("loga"), arg("dloga"), arg("n"), arg("zero_point"),
        arg("threads"), ReleaseGil());
  m.def("deterministic_masks", &deterministic, arg("loga"), arg("offsets"), arg("z"), arg("vectors"), arg("zero_point"),
        arg("scale"), arg("threads"), ReleaseGil());
  m.def("live_indices", &live, arg("z"), arg("offsets"), arg("indices"), arg("counts"), arg("vectors"), arg("threads"),
        ReleaseGil());
}

}  // namespace cofi::hard_concrete
