"""Triton compiles nothing again while masks change: which units live is data of a launch, no constant of it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from cofi_kernels.masked_attention import triton_kernels as attention  # noqa: E402
from cofi_kernels.masked_ffn import triton_kernels as ffn  # noqa: E402
from tests.kernels import launches, test_masked_attention, test_masked_ffn  # noqa: E402

MASKS = ("all kinds", "one unit", "no unit", "dead layer", "no hidden dim")


def launch_ffn(masks: str, n_tokens: int, device: str) -> None:
    inputs = test_masked_ffn.inputs_of((n_tokens, 24, 40), masks, device)
    x, w_up, _, w_down, b_down, *z = inputs.values()
    y, kept = ffn.forward(*inputs.values(), "gelu", True)
    ffn.backward(torch.ones_like(y), x, w_up, w_down, b_down, *z, "gelu", kept)


def launch_attention(masks: str, n_tokens: int, device: str) -> None:
    inputs = test_masked_attention.inputs_of(n_tokens, (3, 32, 24), masks, device)
    x, w_qkv, b_qkv, w_out, b_out, *z = inputs.values()
    state = torch.tensor(test_masked_attention.STATE, device=device)
    others = (test_masked_attention.bounds([n_tokens - 5, 5], device), 32, 32, *z, 0.1, state)
    y, *saved = attention.forward(x, w_qkv, b_qkv, w_out, b_out, *others)
    attention.backward(torch.ones_like(y), x, w_qkv, w_out, b_out, *others, *saved)


LAUNCHERS = {"ffn": launch_ffn, "attention": launch_attention}


@pytest.mark.parametrize("launch", LAUNCHERS.values(), ids=LAUNCHERS)
def test_masks_and_tokens_change_no_binary(device, launch):
    """Batches of 16 tokens too, a multiple of what Triton looks for in integers. An absent mask is another program."""

    def binaries(masks: str, n_tokens: int) -> set[str]:
        with launches.recorded(run=True) as found:
            launch(masks, n_tokens, device)
        return {launches.key_of(case) for case in found}

    known = binaries("all live", 19)
    assert len(known) >= 8
    for masks in MASKS:
        assert binaries(masks, 19) == known, masks
    assert binaries("all live", 16) == known
    assert binaries("no mask", 19) != known
