// The border with Python: addresses arrive as integers, work runs without the interpreter lock.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace cofi {

template <typename T>
T* as(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Pass to m.def of every function that computes: other Python threads run meanwhile.
using ReleaseGil = pybind11::call_guard<pybind11::gil_scoped_release>;

}  // namespace cofi
