#include "common/bind.h"

#include "cpu/first_token_head/head.h"

namespace cofi::first_token_head {
namespace {

void forward(uintptr_t x, uintptr_t bounds, int64_t sequences, int64_t hidden, uintptr_t w_pooler, uintptr_t b_pooler,
             int activation, uintptr_t pooled, int64_t pooler, uintptr_t w_out, uintptr_t b_out, uintptr_t logits,
             int64_t labels, int threads) {
  const Head head{{as<const float>(w_pooler), as<const float>(b_pooler), pooler},
                  activation,
                  {as<const float>(w_out), as<const float>(b_out), labels}};
  apply(head, as<const float>(x), as<const int32_t>(bounds), sequences, hidden, as<float>(pooled), as<float>(logits),
        threads);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("first_token_head", &forward, arg("x"), arg("bounds"), arg("sequences"), arg("hidden"), arg("w_pooler"),
        arg("b_pooler"), arg("activation"), arg("pooled"), arg("pooler"), arg("w_out"), arg("b_out"), arg("logits"),
        arg("labels"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::first_token_head
