"""The persistent encoder compiled by nvcc: registers and spills as ptxas gives them, and what its inner loops hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "csrc/cuda/compact_encoder/encoder.cu"
ARCHITECTURES = {"sm_80": "arch=compute_80,code=sm_80", "sm_90a": "arch=compute_90a,code=sm_90a"}
# of 64 rows, at the borders of stages and where sums are stored: 536 and 1,144
MOST_SPILLED_BYTES = {"sm_80": 600, "sm_90a": 1200}

Instruction = tuple[int, str]


class Built(NamedTuple):
    architecture: str
    cubin: Path
    resources: dict[int, tuple[int, int]]  # 16-row groups -> most registers and bytes of spill stores
    said: str


@pytest.fixture(scope="module")
def nvcc() -> str:
    """Where setup.py looks for it."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    return found or pytest.skip("no nvcc: the persistent kernel was neither compiled nor looked at")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, nvcc: str) -> Built:
    cubin = tmp_path_factory.mktemp("cubin") / "encoder.cubin"
    flags = ["-std=c++17", "-O3", "-gencode", ARCHITECTURES[request.param], "-Xptxas", "-v", f"-I{ROOT / 'csrc'}"]
    done = subprocess.run([nvcc, *flags, "-cubin", str(SOURCE), "-o", str(cubin)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"IN?S?\d?_?\d*(?:Bf16|Fp16)ELi(\d)E.*?(\d+) bytes spill stores.*?Used (\d+) reg", done.stderr, re.S
    )
    resources: dict[int, tuple[int, int]] = {}
    for groups, spilled, registers in found:
        before = resources.get(int(groups), (0, 0))
        resources[int(groups)] = (max(before[0], int(registers)), max(before[1], int(spilled)))
    assert len(found) == 4 and sorted(resources) == [2, 4], done.stderr
    return Built(request.param, cubin, resources, done.stderr)


def test_32_rows_fit_in_registers_and_64_nearly(built):
    assert built.resources[2][1] == 0, built
    assert built.resources[4][1] <= MOST_SPILLED_BYTES[built.architecture], built
    assert max(registers for registers, _ in built.resources.values()) <= 255


def test_loops_over_weights_touch_no_local_memory(built):
    loops = list(product_loops(built.cubin, "HMMA", r"\bLDS\.128\b"))
    is_wide = built.architecture == "sm_90a"
    assert len(loops) == (4 if is_wide else 8)  # two products in each of the kernels without wgmma
    sums = {sum("HMMA" in text for _, text in loop) for loop in loops}
    assert sums == ({24} if is_wide else {24, 48})  # 2 or 4 groups of rows x 6 blocks x 2
    assert not any(of_local_memory(loop) for loop in loops)


def test_warpgroups_multiply_without_waiting_and_without_local_memory(built):
    """ptxas says so where it has each wgmma wait for the one before."""
    assert "wgmma" not in built.said and "warpgroup" not in built.said, built.said
    loops = list(product_loops(built.cubin, "HGMMA", r"\bLDSM\b"))
    if built.architecture != "sm_90a":
        assert not loops
        return
    products = [sum("HGMMA" in text for _, text in loop) for loop in loops]
    assert sorted(products) == sorted([1, 2, 3, 4, 1, 2] * 4)  # cases of columns, two products, two dtypes
    assert not any(of_local_memory(loop) for loop in loops)


def test_architectures_can_be_chosen(nvcc, tmp_path):
    """The code for Ampere runs on a newer GPU where that is all there is."""
    cmake = shutil.which("cmake") or pytest.skip("no cmake")
    options = {"COFI_CUDA": "ON", "CMAKE_CUDA_COMPILER": nvcc, "Python_EXECUTABLE": sys.executable}
    options["CMAKE_CUDA_ARCHITECTURES"] = "80"
    command = [cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(tmp_path), *(f"-D{k}={v}" for k, v in options.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "build.ninja").read_text()
    assert sorted(set(re.findall(r"arch=compute_(\w+)", rules))) == ["80"]


def of_local_memory(loop: list[Instruction]) -> int:
    return sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in loop)


def product_loops(cubin: Path, product: str, load: str) -> Iterator[list[Instruction]]:
    """The innermost loops of this instruction that read shared memory by that one: weights or rows."""
    for kernel in kernels(cubin):
        loops = [loop for loop in backward_loops(kernel) if f" '{product}" in str(loop)]
        for loop in loops:
            holds_another = any(
                other is not loop and loop[0][0] <= other[0][0] and other[-1][0] <= loop[-1][0] for other in loops
            )
            if not holds_another and any(re.search(load, text) for _, text in loop):
                yield loop


def kernels(cubin: Path) -> Iterator[list[Instruction]]:
    """Addresses and instructions of each."""
    triton = pytest.importorskip("triton")
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", str(cubin)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for text in listing.split("Function :")[1:]:
        found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", text)
        yield [(int(address, 16), instruction) for address, instruction in found]


def backward_loops(kernel: list[Instruction]) -> Iterator[list[Instruction]]:
    for address, text in kernel:
        target = re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", text)
        if target and int(target[1], 16) <= address:
            yield [item for item in kernel if int(target[1], 16) <= item[0] <= address]
