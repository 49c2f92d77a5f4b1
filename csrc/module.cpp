// Table of contents of cofi_kernels._C: a declaration and a call for each family under csrc/cpu.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "common/cpu_features.h"
#include "common/openmp.h"

namespace cofi::adamw {
void bind(pybind11::module_&);
}
namespace cofi::attention {
void bind(pybind11::module_&);
}
namespace cofi::compact_encoder {
void bind(pybind11::module_&);
}
namespace cofi::compact_model {
void bind(pybind11::module_&);
}
namespace cofi::counter_rng {
void bind(pybind11::module_&);
}
namespace cofi::dots {
void bind(pybind11::module_&);
}
namespace cofi::first_token_head {
void bind(pybind11::module_&);
}
namespace cofi::hard_concrete {
void bind(pybind11::module_&);
}
namespace cofi::masked_layer_norm {
void bind(pybind11::module_&);
}
namespace cofi::products {
void bind(pybind11::module_&);
}
namespace cofi::projection {
void bind(pybind11::module_&);
}
namespace cofi::token_embedding {
void bind(pybind11::module_&);
}

namespace cofi {
namespace {

const char* const kIsaNames[] = {"portable", "avx2", "avx512", "amx"};

const char* isa_name() { return kIsaNames[static_cast<int>(has_amx() ? Isa::amx : isa())]; }

void limit_isa_by_name(const std::string& name) {
  for (int level = 0; level < 4; ++level) {
    if (name == kIsaNames[level]) return limit_isa(static_cast<Isa>(level));
  }
  throw std::invalid_argument("isa must be one of portable, avx2, avx512, amx, got '" + name + "'");
}

}  // namespace
}  // namespace cofi

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "CPU kernels of cofi_kernels. Call them through the ops, which check arguments: here addresses are trusted.";
  cofi::openmp::watch_forks();
  m.def("isa", &cofi::isa_name, "The instructions in use: portable, avx2, avx512 or amx.");
  m.def("limit_isa", &cofi::limit_isa_by_name, "Use at most these instructions, for tests: 'amx' lifts it.");
  cofi::adamw::bind(m);
  cofi::attention::bind(m);
  cofi::compact_encoder::bind(m);
  cofi::compact_model::bind(m);  // after the encoder, which it takes
  cofi::counter_rng::bind(m);
  cofi::dots::bind(m);
  cofi::first_token_head::bind(m);
  cofi::hard_concrete::bind(m);
  cofi::masked_layer_norm::bind(m);
  cofi::products::bind(m);
  cofi::projection::bind(m);
  cofi::token_embedding::bind(m);
}
