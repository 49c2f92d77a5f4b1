#include "common/bind.h"

#include <pybind11/stl.h>

#include <memory>

#include "cpu/compact_encoder/encoder.h"

namespace cofi::compact_encoder {
namespace {

// A few elements of the weights as they were: PyTorch counts most writes to a tensor, but not those of its fused
// optimizers or through `.data`, and an encoder packed before such a write would go on with old weights.
class Samples {
 public:
  Samples(const std::vector<uintptr_t>& addresses, const std::vector<int64_t>& sizes) {
    for (std::size_t i = 0; i < addresses.size(); ++i) {
      for (int64_t j = 0; j < kEach && sizes[i] > 0; ++j) {
        places_.push_back(as<const uint32_t>(addresses[i]) + j * (sizes[i] - 1) / (kEach - 1));
        bits_.push_back(*places_.back());
      }
    }
  }

  // The addresses must still be those of the weights.
  bool hold() const {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      if (*places_[i] != bits_[i]) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kEach = 16;  // of a tensor: some 1,500 reads in all for twelve layers, 10 us
  std::vector<const uint32_t*> places_;
  std::vector<uint32_t> bits_;
};

// addresses: 12 a layer in the order of LAYER_WEIGHTS; those of a removed sublayer are not read.
std::unique_ptr<Encoder> make(int64_t hidden, int64_t head_dim, float eps, int activation, int precision,
                              const std::vector<int64_t>& heads, const std::vector<int64_t>& intermediate,
                              const std::vector<bool>& mha, const std::vector<bool>& ffn,
                              const std::vector<uintptr_t>& addresses, int threads) {
  constexpr std::size_t kWeights = sizeof(LayerWeights) / sizeof(const float*);
  std::vector<LayerSize> sizes;
  std::vector<LayerWeights> weights(heads.size());
  for (std::size_t i = 0; i < heads.size(); ++i) {
    sizes.push_back({heads[i], intermediate[i], mha[i], ffn[i]});
    const uintptr_t* a = addresses.data() + i * kWeights;
    const auto at = [a](int j) { return as<const float>(a[j]); };
    weights[i] = {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11)};
  }
  const Settings settings{hidden, head_dim, eps, static_cast<Activation>(activation),
                          static_cast<Precision>(precision)};
  return std::make_unique<Encoder>(settings, sizes, weights, threads);
}

void run(const Encoder& encoder, uintptr_t x, uintptr_t bounds, int64_t sequences, uintptr_t out, int threads) {
  encoder.run(as<const float>(x), as<const int32_t>(bounds), sequences, as<float>(out), threads);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  pybind11::class_<Encoder>(m, "CompactEncoder", "A pruned encoder, its weights packed.")
      .def(pybind11::init(&make), arg("hidden"), arg("head_dim"), arg("eps"), arg("activation"), arg("precision"),
           arg("heads"), arg("intermediate"), arg("mha"), arg("ffn"), arg("addresses"), arg("threads"), ReleaseGil())
      .def("run", &run, arg("x"), arg("bounds"), arg("sequences"), arg("out"), arg("threads"), ReleaseGil())
      .def_property_readonly("packed_bytes", &Encoder::packed_bytes);
  pybind11::class_<Samples>(m, "WeightSamples", "Some elements of fp32 weights, to notice that they were written to.")
      .def(pybind11::init<const std::vector<uintptr_t>&, const std::vector<int64_t>&>(), arg("addresses"), arg("sizes"))
      .def("hold", &Samples::hold);
}

}  // namespace cofi::compact_encoder
