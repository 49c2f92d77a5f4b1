"""That `make sanitize` runs what it says: skipped elsewhere."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from cofi_kernels.native import load_native

LOADED = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "__asan_init")

# a product of 20 columns into a matrix that ends one element too early
OVERFLOW = """
import ctypes, importlib.machinery, importlib.util
loader = importlib.machinery.ExtensionFileLoader("cofi_kernels._C", {path!r})
loader.exec_module(module := importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader)))
m, n, k = 30, 20, 10
a, b, c = ((ctypes.c_float * size)() for size in (m * k, k * n, m * n - {missing}))
matrices = dict(a=ctypes.addressof(a), lda=k, b=ctypes.addressof(b), ldb=n, c=ctypes.addressof(c), ldc=n)
module.limit_isa({isa!r})
module.matmul(**matrices, a_by_columns=False, b_by_columns=False, bias=0, m=m, n=n, k=k, threads=1)
"""


@pytest.mark.skipif(not LOADED, reason="the address sanitizer is not loaded: run `make sanitize`")
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_a_write_beyond_an_array_ends_the_process(isa: str) -> None:
    for missing in (0, 1):
        code = OVERFLOW.format(path=load_native().__file__, missing=missing, isa=isa)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (result.returncode != 0) == bool(missing), result.stderr
        assert ("heap-buffer-overflow" in result.stderr) == bool(missing), result.stderr
