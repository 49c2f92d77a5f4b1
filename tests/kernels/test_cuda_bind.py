"""What csrc/common/cuda_bind.h makes of an error, with stand-ins for the CUDA runtime and for pybind11."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = """
#pragma once
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
using cudaStream_t = struct Stream*;
inline cudaError_t pending = cudaSuccess;
inline cudaError_t cudaGetLastError() {
  const cudaError_t last = pending;
  pending = cudaSuccess;
  return last;
}
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
"""
PYBIND11 = """
#pragma once
namespace pybind11 {
struct gil_scoped_release {};
template <class> struct call_guard {};
}
"""
PROGRAM = """
#include "common/cuda_bind.h"

int main() {
  cofi::check(cudaSuccess, "first");
  pending = cudaErrorInvalidValue;
  try {
    cofi::check(cudaErrorInvalidValue, "encoder_run");
  } catch (const std::runtime_error& error) {
    const bool is_named = std::string(error.what()) == "encoder_run: invalid argument";
    return is_named && cudaGetLastError() == cudaSuccess ? 0 : 1;
  }
  return 2;
}
"""


def test_an_error_is_raised_once_and_not_by_the_next_launch_too(tmp_path):
    compiler = shutil.which(os.environ.get("CXX", "c++")) or pytest.skip("no C++ compiler")
    for name, text in {"cuda_runtime.h": RUNTIME, "pybind11/pybind11.h": PYBIND11, "program.cpp": PROGRAM}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    program = tmp_path / "program"
    command = [compiler, "-std=c++17", f"-I{tmp_path}", f"-I{ROOT / 'csrc'}", f"{program}.cpp", "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    assert subprocess.run([program]).returncode == 0
