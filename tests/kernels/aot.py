"""Compile Triton kernels without a GPU and say what they need: registers, local memory (spills), shared memory.

The tests run under TRITON_INTERPRET=1, where `triton.jit` gives interpreted functions, so the compiler works in a
process of its own: one for all the cases handed to `compile_cases`. This file is also what runs there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 90, 100)
DEPENDENT_ARCHITECTURES = (90, 100)  # that know dependent launches, see cofi_kernels/dependent.py
SHARED_LIMIT_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # of a block, CUDA programming guide
REGISTER_LIMIT = 255  # of a thread


@dataclasses.dataclass(frozen=True)
class Case:
    """One specialisation of a kernel.

    kernel:     "module:function"
    arguments:  every argument in order: a type ("*fp32", "i32", "fp32") for one passed at run time, any other value
                (int, float, bool, None) for a constexpr; a constexpr string goes to `strings`; a list of types for a
                tuple of arguments
    options:    num_warps, num_stages, ... as the launcher passes them
    unaligned:  pointers that need not be multiples of 16 bytes
    architectures: what to compile for
    multiples:  integers passed at run time that are multiples of 16, which Triton then compiles for
    """

    kernel: str
    arguments: dict[str, Any]
    options: dict[str, int] = dataclasses.field(default_factory=dict)
    strings: dict[str, str] = dataclasses.field(default_factory=dict)
    unaligned: tuple[str, ...] = ()
    architectures: tuple[int, ...] = ARCHITECTURES
    multiples: tuple[str, ...] = ()

    def __str__(self) -> str:
        constants = {k: v for k, v in self.arguments.items() if not isinstance(v, (str, list))} | self.strings
        types = [v for v in self.arguments.values() if isinstance(v, str) and v.startswith("*")]
        return "-".join([self.kernel.split(":")[1].strip("_"), *types[:1], *(f"{k}={v}" for k, v in constants.items())])


@dataclasses.dataclass(frozen=True)
class Report:
    case: str
    architecture: int
    registers: int
    local_bytes: int  # per thread: what did not fit in registers
    shared_bytes: int
    is_dependent: bool  # it waits for the kernel in front of it
    waits_first: bool  # before it reads or writes memory
    loads_bytes: list[int]  # of each load from global memory to registers that a thread makes
    racing_dots: list[str]  # products that still read the one buffer into which the loop's next load may write already


def compile_cases(cases: Sequence[Case]) -> list[Report]:
    """Compile every case for its architectures, in one process. Raises RuntimeError with the compiler's words."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    request = json.dumps([dataclasses.asdict(case) for case in cases])
    command = [sys.executable, "-m", "tests.kernels.aot"]
    done = subprocess.run(command, cwd=ROOT, env=environment, input=request, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"kernels did not compile:\n{done.stdout}\n{done.stderr}")
    return [Report(**report) for report in json.loads(done.stdout.splitlines()[-1])]


def assert_fits(report: Report) -> None:
    """No spills, shared memory that a block can have, no race for it, and no access before a dependent kernel waits."""
    assert report.racing_dots == [], report
    assert report.local_bytes == 0, f"{report} spills"
    assert 0 < report.registers <= REGISTER_LIMIT, report
    assert report.shared_bytes <= SHARED_LIMIT_BYTES[report.architecture], report
    assert report.is_dependent == ("DEPENDENT=True" in report.case), report
    assert report.waits_first or not report.is_dependent, report


def _compile(case: Case, architecture: int) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = case.kernel.split(":")
    constants = {k: v for k, v in case.arguments.items() if not isinstance(v, (str, list))} | case.strings
    signature = {
        k: "constexpr" if k in constants else tuple(v) if isinstance(v, list) else v for k, v in case.arguments.items()
    }
    aligned = {path: [["tt.divisibility", 16]] for path in _aligned(signature, case.unaligned, case.multiples)}
    source = ASTSource(getattr(import_module(module), name), signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=case.options)
    registers, local_bytes = _resources(compiled.asm["cubin"])
    waits = _waits(compiled.asm["ptx"])
    loads = _loads_bytes(compiled.asm["ptx"])
    racing = _racing_dots(compiled.asm["ttgir"])
    return Report(str(case), architecture, registers, local_bytes, compiled.metadata.shared, *waits, loads, racing)


def _aligned(
    signature: dict[str, Any], unaligned: Sequence[str], multiples: Sequence[str]
) -> Iterator[tuple[int, ...]]:
    """Places of pointers and integers that are multiples of 16; of one in a tuple, the tuple's place and its own."""
    for place, (argument, kind) in enumerate(signature.items()):
        if argument in unaligned:
            continue
        if isinstance(kind, tuple):
            yield from ((place, inner) for inner, name in enumerate(kind) if name.startswith("*"))
        elif kind.startswith("*") or argument in multiples:
            yield (place,)


def _waits(ptx: str) -> tuple[bool, bool]:
    """Whether a kernel waits for the one in front of it, and whether that comes before any access to global memory."""
    wait = ptx.find("griddepcontrol.wait")
    access = re.search(r"\b(ld|st|atom|red)\.global|cp\.async", ptx)
    return wait >= 0, wait >= 0 and (access is None or wait < access.start())


def _loads_bytes(ptx: str) -> list[int]:
    """Of "ld.global.v4.b32": 16."""
    found = re.findall(r"\bld\.global(?:\.[a-zL]\w*(?:::\w+)*)*?(?:\.v(\d))?\.[bfsu](\d+)", ptx)
    return [int(vector or 1) * int(bits) // 8 for vector, bits in found]


def _racing_dots(ttgir: str) -> list[str]:
    """Asynchronous products of sm_90 whose factor lies in a buffer of its own, and that nobody waits for right behind.

    Triton's pipeliner gives a factor a buffer more, so that the next load does not meet a product under way, but not
    one that is read into registers as well (its issue 6691). What is stored once, before a loop, has no buffers.
    """
    buffers = {
        name: int(n) for name, n in re.findall(r"(%[\w#]+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x", ttgir)
    }
    origin: dict[str, str] = {}
    views = re.findall(r"(%[\w#]+) = ttg\.memdesc_(?:index|trans|reshape|subslice)\S* (%[\w#]+)", ttgir)
    for view, source in views:
        origin[view] = origin.get(source, source)
    lines = ttgir.splitlines()
    racing = []
    for place, line in enumerate(lines):
        dot = re.search(r"(%[\w#]+) = ttng\.warp_group_dot (.*?) \{.*isAsync = true", line)
        if dot is None:
            continue
        single = any(buffers.get(origin.get(factor, "")) == 1 for factor in re.findall(r"%[\w#]+", dot[2]))
        behind = " ".join(lines[place + 1 : place + 4])
        if single and not re.search(rf"warp_group_dot_wait [^{{]*{re.escape(dot[1])}\b", behind):
            racing.append(dot[1])
    return racing


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory, of the one kernel in `cubin`."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", listing)
    if found is None:
        raise RuntimeError(f"cuobjdump named no resources:\n{listing}")
    return int(found[1]), int(found[2]) + int(found[3])


def main() -> None:
    cases = [Case(**case) for case in json.load(sys.stdin)]
    reports = [_compile(case, architecture) for case in cases for architecture in case.architectures]
    sys.stdout.write("\n" + json.dumps([dataclasses.asdict(report) for report in reports]) + "\n")


if __name__ == "__main__":
    main()
