"""The thread pool of the CPU kernels, compiled apart from Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.mark.parametrize("sanitizer", [None, "thread", "address,undefined"])
def test_own_pool(sanitizer: str | None, tmp_path: Path) -> None:
    """A program without an OpenMP runtime. An argument leaves out the fork: thread sanitizers do not follow it."""
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"] if sanitizer else []
    run_driver(tmp_path, flags, arguments=flags if sanitizer == "thread" else [])


def test_openmp_runtime_of_the_process(tmp_path: Path) -> None:
    """As in a process with torch: found at run time, used by several threads at once, left alone after a fork."""
    run_driver(tmp_path, ["-Wl,--no-as-needed", "-lgomp"], arguments=[])


def run_driver(folder: Path, flags: list[str], arguments: list[str]) -> None:
    program = folder / "parallel_driver"
    common = [ROOT / "csrc/common" / name for name in ("openmp.cpp", "parallel.cpp")]
    sources = [ROOT / "tests/native/parallel_driver.cpp", *common]
    compile_command = [
        COMPILER,
        "-std=c++17",
        "-O1",
        "-pthread",
        *flags,
        f"-I{ROOT / 'csrc'}",
        *sources,
        "-ldl",
        "-o",
        program,
    ]
    compiled = subprocess.run(compile_command, capture_output=True, text=True)
    if compiled.returncode != 0 and flags and any("cannot find" in line for line in compiled.stderr.splitlines()):
        pytest.skip(f"the compiler cannot link with {' '.join(flags)}")
    assert compiled.returncode == 0, compiled.stderr
    # the pool is never destroyed; and `make sanitize` loads a runtime that others do not go with
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": ""}
    result = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
