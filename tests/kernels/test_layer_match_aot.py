"""What layer matching launches on a GPU, as its launchers say, compiled for each architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kernels import aot

pytest.importorskip("triton")
from cofi_kernels.layer_match import triton_kernels  # noqa: E402
from tests.kernels import launches  # noqa: E402

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
N_TOKENS, N_SEQUENCES, N_TEACHER = 4096, 32, 4
KERNELS = ("fwd", "mean", "plan", "residual", "dstudent", "dweight", "finish")
# student layers, teacher hidden, student hidden; dtype; padded, with layers that may repeat, as in a graph of a pruning
# step, or neither; and which kernels of it: all for one, then those that differ
LAYERS = {
    "BERT-base": ((12, 768, 768, BF16, True), "kernel"),
    "BERT-base as it is": ((12, 768, 768, BF16, False), "fwd residual dstudent"),
    "MiniLM in fp16, taught by BERT-base": ((6, 768, 384, FP16, True), "fwd residual dstudent dweight"),
    "BERT-large": ((24, 1024, 1024, BF16, True), "fwd residual dstudent dweight"),
    "hidden dims that no block divides": ((12, 768, 760, BF16, True), "residual dstudent"),
}
SINGLE = ((12, 768, 700, FP32, True), "fwd residual")  # its tiles are the same everywhere


def launch(n_layers: int, d_teacher: int, d_student: int, dtype: torch.dtype, padded: bool) -> None:
    """Forward and backward. The count of tokens lies in the bounds of sequences, before the padding's."""
    teacher = [torch.empty(N_TOKENS, d_teacher, dtype=dtype, device="meta") for _ in range(N_TEACHER)]
    student = [torch.empty(N_TOKENS, d_student, dtype=dtype, device="meta") for _ in range(n_layers)]
    weight, bias = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((d_teacher, d_student), (d_teacher,)))
    source = torch.empty(n_layers, dtype=torch.int64, device="meta") if padded else None
    count = torch.empty(N_SEQUENCES + 3, dtype=torch.int32, device="meta")[-2] if padded else None
    given = (teacher, student, weight, bias, source, count)
    triton_kernels.backward(triton_kernels.forward(*given), *given)


def cases() -> Iterator[aot.Case]:
    for architecture in aot.ARCHITECTURES:
        layers = [*LAYERS.values(), *([SINGLE] if architecture == 80 else [])]
        yield from launches.distinct(launches.of_layers(architecture, layers, launch))


def test_every_kernel_compiles_for_every_architecture_without_spills():
    found = list(cases())
    assert {case.kernel.split(":")[1] for case in found} == {f"_layer_match_{name}_kernel" for name in KERNELS}
    assert any("count_ptr" in case.unaligned for case in found)
    for report in aot.compile_cases(found):
        aot.assert_fits(report)
