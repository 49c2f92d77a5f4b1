"""Hands csrc/ to CMake; everything else about the package is in pyproject.toml.

COFI_BUILD_NATIVE=0 installs the reference implementations alone. COFI_BUILD_CUDA=0 leaves out the CUDA module, which
is otherwise built where nvcc is found: $CUDACXX, on PATH, in $CUDA_HOME/bin, in /usr/local/cuda/bin.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError

ROOT = Path(__file__).parent.resolve()
NO_NATIVE = "set COFI_BUILD_NATIVE=0 to install without compiled kernels (slower)"
WINDOWS = f"csrc/ does not compile on Windows: install inside WSL, or {NO_NATIVE}"
NO_CUDA = "set COFI_BUILD_CUDA=0 to build without the CUDA module"


def wanted(variable: str) -> bool:
    value = os.environ.get(variable, "1")
    if value not in ("0", "1"):
        raise SystemExit(f"error: {variable} must be 0 or 1, got {value!r}")
    return value == "1"


def find_nvcc() -> str | None:
    if not wanted("COFI_BUILD_CUDA"):
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    return os.environ.get("CUDACXX", found)  # a wrong path in CUDACXX is an error, not a search elsewhere


def check_nvcc(nvcc: str) -> None:
    result = subprocess.run([nvcc, "--version"], capture_output=True, text=True) if shutil.which(nvcc) else None
    release = re.search(r"release (\d+)\.(\d+)", result.stdout) if result else None
    if release is None:
        raise ExecError(f"{nvcc} does not run as nvcc: repair that CUDA toolkit, or {NO_CUDA}")
    if int(release[1]) < 12:  # the first to know sm_90a
        raise ExecError(f"{nvcc} is of CUDA {release[1]}.{release[2]}: install CUDA 12.0 or later, or {NO_CUDA}")


def find(names: list[str], cure: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # a venv not activated
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        raise ExecError(f"{' or '.join(names)} was not found: {cure}, or {NO_NATIVE}")
    return found


def call(command: list[str], failure: str) -> None:
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise ExecError(f"{failure}; the reason stands above. Mend it, or {NO_NATIVE}")


def configure_command(folder: Path) -> list[str]:
    if sys.platform == "win32":
        raise ExecError(WINDOWS)
    compilers = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    find(compilers, "install a C++ compiler (Debian, Ubuntu: apt-get install g++)")
    command = [find(["cmake"], "pip install cmake"), "-G", "Ninja", "-S", str(ROOT), "-B", str(folder)]
    command += [f"-DCMAKE_MAKE_PROGRAM={find(['ninja'], 'pip install ninja')}", f"-DPython_EXECUTABLE={sys.executable}"]
    if NVCC:
        check_nvcc(NVCC)
        command += ["-DCOFI_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={NVCC}"]
    return command


class CMakeBuild(build_ext):
    """One CMake build makes all modules; setuptools then packs or copies them by name."""

    def build_extensions(self) -> None:
        configure = configure_command(folder := Path(self.build_temp).resolve())
        stamp, tools = folder / "configured_with.txt", repr((configure, os.environ.get("CXX")))
        if not stamp.exists() or stamp.read_text() != tools:
            shutil.rmtree(folder, ignore_errors=True)  # made with other tools, as each of pip's isolated builds is
        without_cuda = f" (if that is nvcc's fault, {NO_CUDA})" if NVCC else ""
        call(configure, f"CMake could not configure the build{without_cuda}")
        stamp.write_text(tools)
        call([configure[0], "--build", str(folder)], "csrc/ could not be compiled")
        call([configure[0], "--install", str(folder), "--prefix", self.build_lib], "the modules could not be placed")


class FreshBuild(build):
    """Keeps what an earlier build left behind out of a wheel."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


NVCC = find_nvcc()
NAMES = (["_C", "_cuda"] if NVCC else ["_C"]) if wanted("COFI_BUILD_NATIVE") else []
COMMANDS = {"build": FreshBuild, "build_ext": CMakeBuild}
setup(ext_modules=[Extension(f"cofi_kernels.{name}", []) for name in NAMES], cmdclass=COMMANDS)
