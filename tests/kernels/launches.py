"""What launchers of Triton kernels launch: every launch as the case that Triton would compile for it.

`recorded` collects the launches of a block. `on_gpu` does so for a GPU that need not be there: kernels are not run and
tensors of the device "meta" have no memory, so that launchers go through the sizes of real models in no time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.jit import KernelInterface

from cofi_kernels import grids
from cofi_kernels.unit_products import tiling
from tests.kernels import aot

_GPU, _MULTIPROCESSORS = torch.device("cuda"), 132
_ALIGNMENT = 16  # Triton compiles for pointers of as many bytes, and for integers, that are multiples of it
_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}


@contextlib.contextmanager
def recorded(architecture: int = 90, *, run: bool) -> Iterator[list[aot.Case]]:
    """The launches of the block, in their order; they happen too where `run`."""
    found: list[aot.Case] = []
    launcher_of = KernelInterface.__getitem__

    def getitem(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **keywords: Any) -> None:
            found.append(_case(kernel, architecture, arguments, keywords))
            if run:
                launcher_of(kernel, grid)(*arguments, **keywords)

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelInterface, "__getitem__", getitem)
        yield found


@contextlib.contextmanager
def on_gpu(architecture: int) -> Iterator[list[aot.Case]]:
    """The launches of the block as they would be on a GPU of this architecture. Its tensors are those of "meta"."""
    tiles_for = tiling.tiles_for
    with pytest.MonkeyPatch.context() as patch, recorded(architecture, run=False) as found:
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: divmod(architecture, 10))
        patch.setattr(tiling, "tiles_for", lambda x: tiles_for(SimpleNamespace(dtype=x.dtype, device=_GPU)))
        patch.setattr(grids, "INTERPRETED_MULTIPROCESSORS", _MULTIPROCESSORS)
        yield found


def key_of(case: aot.Case) -> str:
    """Equal for launches that Triton serves with one binary."""
    return json.dumps(dataclasses.asdict(case), sort_keys=True)


def distinct(cases: Iterable[aot.Case]) -> list[aot.Case]:
    """One case for each binary."""
    return list({key_of(case): case for case in cases}.values())


def chosen(kernels: str, cases: Iterable[aot.Case]) -> list[aot.Case]:
    """Those whose kernel has one of the words in its name."""
    return [case for case in cases if any(word in case.kernel.split(":")[1] for word in kernels.split())]


def of_layers(
    architecture: int, layers: Iterable[tuple[tuple[Any, ...], str]], launch: Callable[..., None]
) -> list[aot.Case]:
    """What `launch(*layer)` launches there, for each layer the kernels that are chosen of it."""
    wanted: list[aot.Case] = []
    for layer, kernels in layers:
        with on_gpu(architecture) as found:
            launch(*layer)
        wanted += chosen(kernels, found)
    return wanted


def _case(kernel: Any, architecture: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> aot.Case:
    signature = inspect.signature(kernel.fn)
    named = {name: value for name, value in keywords.items() if name in signature.parameters}
    options = {name: value for name, value in keywords.items() if name not in named}
    bound = signature.bind(*arguments, **named)
    bound.apply_defaults()
    types: dict[str, Any] = {}
    strings: dict[str, str] = {}
    unaligned, multiples = [], []
    unspecialised = _told(kernel, "do_not_specialize")
    anywhere = _told(kernel, "do_not_specialize_on_alignment")
    for name, value in bound.arguments.items():
        if "constexpr" in str(signature.parameters[name].annotation):
            value = getattr(value, "value", value)
            types[name] = None if isinstance(value, str) else value
            strings |= {name: value} if isinstance(value, str) else {}
            continue
        types[name] = _type_of(value, specialise=name not in unspecialised)
        if isinstance(value, Tensor) and (name in anywhere or not _is_aligned(value)):
            unaligned.append(name)
        if types[name] == "i32" and value % _ALIGNMENT == 0 and name not in unspecialised:
            multiples.append(name)
    name = f"{kernel.fn.__module__}:{kernel.fn.__name__}"
    return aot.Case(name, types, options, strings, tuple(unaligned), (architecture,), tuple(multiples))


def _told(kernel: Any, setting: str) -> list[str]:
    """Arguments that Triton is told not to look at. An interpreted kernel keeps what it was decorated with."""
    given = kernel.kwargs.get(setting) if hasattr(kernel, "rewriter") else getattr(kernel, setting)
    return given or []


def _type_of(value: Any, *, specialise: bool) -> Any:
    """Of a run-time argument, as `aot.Case` has it; None, and where they are looked at 1, are compiled in."""
    if value is None or (specialise and type(value) is int and value == 1):
        return value
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, tuple):
        assert all(_is_aligned(t) for t in value)
        return [_type_of(t, specialise=specialise) for t in value]
    if isinstance(value, float):
        return "fp32"
    assert type(value) is int
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _is_aligned(t: Tensor) -> bool:
    """Memory itself is: allocators give it at multiples of 64 bytes and more."""
    return t.storage_offset() * t.element_size() % _ALIGNMENT == 0
