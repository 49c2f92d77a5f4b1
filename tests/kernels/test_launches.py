"""Triton compiles nothing again while masks change: which units live is data of a launch, no constant of it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from cofi_kernels.layer_match import triton_kernels as matching  # noqa: E402
from cofi_kernels.masked_attention import triton_kernels as attention  # noqa: E402
from cofi_kernels.masked_ffn import triton_kernels as ffn  # noqa: E402
from cofi_kernels.masked_layer_norm import triton_kernels as norm  # noqa: E402
from tests.kernels import launches, test_masked_attention, test_masked_ffn, test_masked_layer_norm  # noqa: E402

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


def launch_norm(masks: str, n_tokens: int, device: str) -> None:
    hidden = {"no mask": "absent", "all kinds": "sparse", "no hidden dim": "dead"}.get(masks, "live")
    inputs = test_masked_layer_norm.inputs_of((n_tokens, 24), hidden, device).values()
    z_layer = None if masks == "no mask" else torch.tensor(float(masks != "dead layer"), device=device)
    state = torch.tensor(test_masked_layer_norm.STATE, device=device)
    y, *statistics = norm.forward(*inputs, z_layer, test_masked_layer_norm.EPS, 0.1, state)
    norm.backward(torch.ones_like(y), *inputs, z_layer, 0.1, state, *statistics)


def launch_matching(masks: str, n_tokens: int, device: str) -> None:
    """A dead layer gives the state of the one before it, and so may be matched by no teacher's layer."""
    teacher, student = ([torch.randn(n_tokens, n, device=device) for _ in range(3)] for n in (24, 40))
    weight, bias = torch.randn(24, 40, device=device), torch.randn(24, device=device)
    sources = {"dead layer": [0, 0, 2], "no unit": [0, 0, 0]}
    source = None if masks == "no mask" else torch.tensor(sources.get(masks, [0, 1, 2]), device=device)
    dm = torch.eye(3, device=device) if masks == "one unit" else torch.ones(3, 3, device=device)
    # as an element of the batch's bounds: of 19 tokens at a multiple of 16 bytes, of 16 not
    bounds = torch.full((n_tokens + 2,), n_tokens - 3, dtype=torch.int32, device=device)
    given = (teacher, student, weight, bias, source, bounds[-1])
    matching.forward(*given)
    matching.backward(dm, *given)


# and how many kernels each has at least
LAUNCHERS = {
    "ffn": (launch_ffn, 8),
    "attention": (launch_attention, 8),
    "layer norm": (launch_norm, 3),
    "layer matching": (launch_matching, 7),
}


@pytest.mark.parametrize(("launch", "n_kernels"), LAUNCHERS.values(), ids=LAUNCHERS)
def test_masks_and_tokens_change_no_binary(device, launch, n_kernels):
    """Batches of 16 tokens too, a multiple of what Triton looks for in integers. An absent mask is another program."""

    def binaries(masks: str, n_tokens: int) -> set[str]:
        with launches.recorded(run=True) as found:
            launch(masks, n_tokens, device)
        return {launches.key_of(case) for case in found}

    known = binaries("all live", 19)
    assert len(known) >= n_kernels
    for masks in MASKS:
        assert binaries(masks, 19) == known, masks
    assert binaries("all live", 16) == known
    assert binaries("no mask", 19) != known
