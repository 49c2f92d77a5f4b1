"""The thread pool of the CPU kernels, compiled apart from Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizer", [None, "thread"])
def test_parallel_for(sanitizer: str | None, tmp_path: Path) -> None:
    program = tmp_path / "parallel_driver"
    flags = [f"-fsanitize={sanitizer}"] if sanitizer else []
    sources = [ROOT / "tests/native/parallel_driver.cpp", ROOT / "csrc/common/parallel.cpp"]
    compile_command = [COMPILER, "-std=c++17", "-O1", "-pthread", *flags, f"-I{ROOT / 'csrc'}", *sources, "-o", program]
    compiled = subprocess.run(compile_command, capture_output=True, text=True)
    if compiled.returncode != 0 and sanitizer:
        pytest.skip("the compiler has no thread sanitizer")
    assert compiled.returncode == 0, compiled.stderr
    result = subprocess.run([program, *flags], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
