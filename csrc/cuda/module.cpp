// Table of contents of cofi_kernels._cuda: a declaration and a call for each family under csrc/cuda.
#include <pybind11/pybind11.h>

namespace cofi::compact_encoder {
void bind(pybind11::module_&);
}
namespace cofi::counter_rng {
void bind(pybind11::module_&);
}

PYBIND11_MODULE(_cuda, m) {
  m.doc() =
      "CUDA kernels of cofi_kernels. Call them through the ops, which check arguments: here addresses are trusted.";
  cofi::compact_encoder::bind(m);
  cofi::counter_rng::bind(m);
}
