"""What a layer of masked_attention launches on a GPU, as its launchers say, compiled for each architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kernels import aot

pytest.importorskip("triton")
from cofi_kernels.masked_attention import triton_kernels  # noqa: E402
from tests.kernels import launches  # noqa: E402

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
BASE, MINILM, LARGE, WIDE = (768, 12, 64), (384, 12, 32), (1024, 16, 64), (1024, 8, 128)  # E, H, D
N_TOKENS, N_SEQUENCES = 4096, 32
# sizes; longest sequence; activations; weights: fp32 masters or theirs; every mask or none; dropout; and which kernels
# of it: all for one, then those that differ
CORE = "attention_fwd attention_bwd"
LAYERS = {
    "BERT-base": ((BASE, 128, BF16, FP32, True, 0.1), "kernel"),
    "short": ((BASE, 64, BF16, FP32, True, 0.1), "attention_bwd"),
    "long": ((BASE, 512, BF16, FP32, True, 0.1), "attention_bwd column_blocks"),
    "bf16 weights": ((BASE, 128, BF16, BF16, True, 0.1), "fold weight_gradients finish"),
    "MiniLM in fp16, no masks, no dropout": ((MINILM, 128, FP16, FP16, False, 0.0), f"fold {CORE} finish"),
    "MiniLM, long": ((MINILM, 512, BF16, BF16, True, 0.1), "attention_bwd"),
    "BERT-large": ((LARGE, 128, BF16, FP32, True, 0.1), "fold project weight_gradients"),  # its heads are BERT-base's
    "heads of 128": ((WIDE, 128, BF16, FP32, True, 0.1), CORE),
    "rows of probabilities start inside Philox blocks": ((BASE, 50, BF16, FP32, True, 0.1), CORE),
}


def launch(
    sizes: tuple[int, int, int], longest: int, half: torch.dtype, weights: torch.dtype, masked: bool, dropout_p: float
) -> None:
    """Forward and backward of a layer. Masks and states of dropout are rows of those of a model."""
    n_hidden, n_heads, head_dim = sizes
    width = n_heads * head_dim
    shapes = ((3, width, n_hidden), (3, width), (width, n_hidden), (n_hidden,))
    w_qkv, b_qkv, w_out, b_out = (torch.empty(shape, dtype=weights, device="meta") for shape in shapes)
    z = [torch.empty(12, *shape, device="meta")[1] if masked else None for shape in ((n_heads,), (), (n_hidden,))]
    x = torch.empty(N_TOKENS, n_hidden, dtype=half, device="meta")
    cu_seqlens = torch.empty(N_SEQUENCES + 1, dtype=torch.int32, device="meta")
    state = torch.empty(36, 2, dtype=torch.int64, device="meta")[1]
    others = (cu_seqlens, longest, head_dim, *z, dropout_p, state)
    y, *saved = triton_kernels.forward(x, w_qkv, b_qkv, w_out, b_out, *others)
    triton_kernels.backward(torch.empty_like(y), x, w_qkv, w_out, b_out, *others, *saved)


def cases() -> Iterator[aot.Case]:
    for architecture in aot.ARCHITECTURES:
        yield from launches.distinct(launches.of_layers(architecture, LAYERS.values(), launch))


def test_every_kernel_compiles_for_every_architecture_without_spills():
    for report in aot.compile_cases(list(cases())):
        aot.assert_fits(report)
