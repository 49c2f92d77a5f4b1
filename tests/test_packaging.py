"""What an installation holds, and what the build says when it cannot do its work."""

from __future__ import annotations

import importlib.metadata
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from setuptools.errors import ExecError

import cofi
import cofi_kernels
from cofi_kernels import native

ROOT = Path(__file__).parents[1]


def test_native_module_is_built_and_picks_vector_instructions() -> None:
    module = native.load_native()
    assert module is not None, native.why_not_native()
    best = module.isa()
    try:
        module.limit_isa("portable")
        assert module.isa() == "portable"
    finally:
        module.limit_isa("amx")
    assert module.isa() == best


def test_native_module_rejects_unknown_instruction_set() -> None:
    with pytest.raises(ValueError, match="isa must be one of portable, avx2, avx512, amx, got 'sse9'"):
        native.load_native().limit_isa("sse9")


def test_absent_module_gives_a_reason() -> None:
    loaded = native._load("_absent", "nothing builds it")
    assert loaded.module is None
    assert loaded.why_not == "cofi_kernels._absent is not installed: nothing builds it"


LOAD_ALONE = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("cofi_kernels.{name}", {path!r})
loader.exec_module(importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader)))
assert "torch" not in sys.modules
assert "libcuda.so" not in open("/proc/self/maps").read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("load", [native.load_native, native.load_cuda], ids=["_C", "_cuda"])
def test_compiled_module_loads_without_torch_and_driver(load) -> None:
    module = load()
    if module is None:
        pytest.skip("not built here")
    code = LOAD_ALONE.format(name=module.__name__.rpartition(".")[2], path=module.__file__)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("package", [cofi, cofi_kernels])
def test_package_is_typed_and_states_the_version(package) -> None:
    assert (Path(package.__file__).parent / "py.typed").is_file()
    assert package.__version__ == importlib.metadata.version("cofi-kernels")


def test_backends_says_what_every_op_runs_on() -> None:
    table = str(cofi_kernels.backends())
    assert "runs on" in table
    for choice in cofi_kernels.backends():
        assert choice.op in table


def build_native(tmp_path: Path, **environment: str) -> str:
    """What `setup.py build_ext` says in an environment in which it must fail."""
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-temp={tmp_path}/t", f"--build-lib={tmp_path}/l"]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert result.returncode != 0, result.stdout
    return result.stderr


def fake_nvcc(folder: Path, script: str) -> str:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_source_distribution_holds_what_the_tests_read(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (listed,) = tmp_path.glob("*/SOURCES.txt")
    held = {Path(line) for line in listed.read_text().splitlines()}
    wanted = {
        path.relative_to(ROOT)
        for folder in ("bench", "cofi", "cofi_kernels", "csrc", "docs", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    assert wanted and wanted <= held


def test_windows_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setuptools, "setup", lambda **settings: None)
    commands = runpy.run_path(str(ROOT / "setup.py"))
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ExecError, match="on Windows: install inside WSL, or set COFI_BUILD_NATIVE=0"):
        commands["configure_command"](tmp_path)


def test_missing_compiler_says_what_to_install(tmp_path: Path) -> None:
    message = build_native(tmp_path, CXX="/nonexistent/c++")
    assert "error: /nonexistent/c++ was not found: install a C++ compiler" in message
    assert "COFI_BUILD_NATIVE=0" in message
    assert "Traceback" not in message


def test_old_cuda_says_how_to_build_without(tmp_path: Path) -> None:
    nvcc = fake_nvcc(tmp_path, "echo 'Cuda compilation tools, release 11.8, V11.8.89'")
    message = build_native(tmp_path, CUDACXX=nvcc)
    assert "is of CUDA 11.8: install CUDA 12.0 or later" in message
    assert "COFI_BUILD_CUDA=0" in message


def test_broken_cuda_says_how_to_build_without(tmp_path: Path) -> None:
    message = build_native(tmp_path, CUDACXX=fake_nvcc(tmp_path, "exit 1"))
    assert "does not run as nvcc" in message
    assert "COFI_BUILD_CUDA=0" in message


def test_unclear_switch_is_an_error(tmp_path: Path) -> None:
    assert "COFI_BUILD_CUDA must be 0 or 1, got 'no'" in build_native(tmp_path, COFI_BUILD_CUDA="no")
