"""What a layer of masked_ffn launches on a GPU, compiled for each architecture: registers, spills, shared memory.

Its launchers say what they launch; all of `unit_products` that needs no heads is among it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.kernels import aot

pytest.importorskip("triton")
from cofi_kernels.masked_ffn import triton_kernels  # noqa: E402
from tests.kernels import launches  # noqa: E402

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
N_TOKENS = 4096
# E, I; activations; weights: fp32 masters or theirs; every mask or none; and which kernels of it
LAYERS = {
    "BERT-base": (((768, 3072), BF16, FP32, True), "kernel"),
    "bf16 weights": (((768, 3072), BF16, BF16, True), "kernel"),
    "MiniLM in fp16, no masks": (((384, 1536), FP16, FP16, False), "kernel"),
    "BERT-large": (((1024, 4096), BF16, FP32, True), "fwd_kernel project weight_gradients"),
}
SINGLE = ((384, 1536), FP32, FP32, True)
HALF_SUMS = ("column_blocks_kernel-*bf16", "column_blocks_kernel-*fp16")


def launch(sizes: tuple[int, int], half: torch.dtype, weights: torch.dtype, masked: bool) -> None:
    """Forward and backward of a layer. Masks are rows of those of a model."""
    x, *arguments = arguments_of(sizes, half, weights, masked)
    _, kept = triton_kernels.forward(x, *arguments, "gelu", True)
    w_up, _, w_down, b_down, *z = arguments
    triton_kernels.backward(torch.empty_like(x), x, w_up, w_down, b_down, *z, "gelu", kept)


def arguments_of(sizes: tuple[int, int], half: torch.dtype, weights: torch.dtype, masked: bool) -> list[Tensor | None]:
    n_hidden, n_int = sizes
    shapes = ((n_int, n_hidden), (n_int,), (n_int, n_hidden), (n_hidden,))
    z = [torch.empty(12, *shape, device="meta")[1] if masked else None for shape in ((n_int,), (), (n_hidden,))]
    x = torch.empty(N_TOKENS, n_hidden, dtype=half, device="meta")
    return [x, *(torch.empty(shape, dtype=weights, device="meta") for shape in shapes), *z]


def cases() -> Iterator[aot.Case]:
    """Every layer for every architecture; fp32, whose tiles are the same on all, for the one with the least memory."""
    for architecture in aot.ARCHITECTURES:
        wanted = launches.of_layers(architecture, LAYERS.values(), launch)
        with launches.on_gpu(architecture) as found:
            triton_kernels.forward(*arguments_of(*LAYERS["BERT-base"][0]), "gelu", False)
            if architecture == 80:
                launch(*SINGLE)
        yield from launches.distinct([*wanted, *found])


def test_every_kernel_compiles_for_every_architecture_without_spills():
    """Sums over dy read a whole row of 16 bytes at a time, eight numbers and not one."""
    reports = aot.compile_cases(list(cases()))
    for report in reports:
        aot.assert_fits(report)
    sums = [report.loads_bytes for report in reports if report.case.startswith(HALF_SUMS)]
    assert len(sums) == 2 * len(aot.ARCHITECTURES)  # of two hidden sizes
    assert all(loads == [16] * 4 for loads in sums)
