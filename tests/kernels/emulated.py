"""The persistent encoder's own code, compiled for the host: a module with the functions of `_cuda`.

tests/native/persistent holds the machine that it runs on. Threads are fibers, shared memory starts as NaN, copies are
late; every access is checked against its bounds.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cofi_kernels import EncoderLayout
from cofi_kernels.masked_ffn.activations import ACTIVATIONS

ROOT = Path(__file__).resolve().parents[2]
H200 = (132, 232_448, 8)  # multiprocessors, bytes of shared memory of a thread block, thread blocks of a cluster
A100 = (108, 166_912, 1)


@functools.cache
def emulated_encoder() -> Any:
    """The module, built at the first call. Skips where there is no C++ compiler or no pybind11."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    pybind11 = pytest.importorskip("pybind11")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = Path(tempfile.mkdtemp()) / "emulated_encoder.so"
    folder, planner = ROOT / "tests/native/persistent", ROOT / "csrc/cuda/compact_encoder"
    includes = (ROOT / "csrc", folder, pybind11.get_include(), sysconfig.get_paths()["include"])
    # longjmp between fibers is what _FORTIFY_SOURCE takes for an error
    flags = "-std=c++17 -O2 -Wall -Wextra -Wno-unknown-pragmas -shared -fPIC -fvisibility=hidden -U_FORTIFY_SOURCE"
    sources = [folder / "emulate.cpp", planner / "plan.cpp", planner / "predict.cpp"]
    command = [compiler, *flags.split(), *(f"-I{i}" for i in includes), *map(str, sources), "-o", str(path)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    assert "warning" not in compiled.stderr, compiled.stderr
    spec = importlib.util.spec_from_file_location("emulated_encoder", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan_of(module: Any, layout: EncoderLayout, hidden: int, gpu: object, batch: object, tile: object = None) -> Any:
    counts = {"heads": layout.heads, "intermediate": layout.intermediate, "mha": layout.mha, "ffn": layout.ffn}
    settings = {"head_dim": layout.head_dim, "eps": layout.eps, "activation": [*ACTIVATIONS].index(layout.activation)}
    return module.encoder_plan(hidden=hidden, **settings, **counts, gpu=gpu, batch=batch, tile=tile)
