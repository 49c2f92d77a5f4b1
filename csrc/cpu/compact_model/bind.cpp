#include "common/bind.h"

#include <memory>

#include "cpu/compact_model/model.h"

namespace cofi::compact_model {
namespace {

std::unique_ptr<Model> make(const compact_encoder::Encoder& encoder, int64_t hidden, uintptr_t word, int64_t words,
                            uintptr_t position, int64_t positions, int64_t first_position, uintptr_t type,
                            int64_t types, uintptr_t norm_weight, uintptr_t norm_bias, float eps, uintptr_t w_pooler,
                            uintptr_t b_pooler, int64_t pooler, int activation, uintptr_t w_out, uintptr_t b_out,
                            int64_t labels) {
  const Embeddings embeddings{as<const float>(word),
                              words,
                              as<const float>(position),
                              positions,
                              first_position,
                              as<const float>(type),
                              types,
                              {as<const float>(norm_weight), as<const float>(norm_bias), eps}};
  const first_token_head::Head head{{as<const float>(w_pooler), as<const float>(b_pooler), pooler},
                                    activation,
                                    {as<const float>(w_out), as<const float>(b_out), labels}};
  return std::make_unique<Model>(encoder, hidden, embeddings, head);
}

bool run(const Model& model, uintptr_t ids, uintptr_t mask, uintptr_t types, int64_t rows, int64_t length,
         uintptr_t pooled, uintptr_t logits, uintptr_t states, int threads) {
  const Padded in{as<const int64_t>(ids), as<const int64_t>(mask), as<const int64_t>(types), rows, length};
  return model.run(in, {as<float>(pooled), as<float>(logits), as<float>(states)}, threads);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  pybind11::class_<Model>(m, "CompactModel", "A pruned classifier from padded ids to logits.")
      .def(pybind11::init(&make), pybind11::keep_alive<1, 2>(), arg("encoder"), arg("hidden"), arg("word"),
           arg("words"), arg("position"), arg("positions"), arg("first_position"), arg("type"), arg("types"),
           arg("norm_weight"), arg("norm_bias"), arg("eps"), arg("w_pooler"), arg("b_pooler"), arg("pooler"),
           arg("activation"), arg("w_out"), arg("b_out"), arg("labels"))
      .def("run", &run, ReleaseGil(), "ids, mask, types, rows, length, pooled, logits, states, threads");
}

}  // namespace cofi::compact_model
