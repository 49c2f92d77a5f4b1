"""Compact encoder: states against fp64 for every kind of layer, weights and layouts that do not fit, registration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import EncoderLayout, compact_encoder
from cofi_kernels.compact_encoder import reference
from cofi_kernels.compact_encoder.layout import weight_shapes
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager

LENGTHS = {
    "one token": [1],
    "empty sequences": [0, 3, 0, 0, 7, 1, 0],
    "one length": [8, 8, 8],
    "like lengths": [31, 33, 32, 2, 33, 30],
    "no token": [0, 0],
    "no sequence": [],
}
# every kind of layer: whole, attention removed, FFN removed, both, kept without units
MIXED = EncoderLayout(
    heads=(3, 0, 2, 0, 0),
    intermediate=(13, 7, 0, 0, 0),
    mha=(True, False, True, False, True),
    ffn=(True, True, False, False, True),
    head_dim=8,
    eps=1e-5,
    activation="gelu",
)
HIDDEN = 29


def weights_of(layout: EncoderLayout, n_hidden: int, device: str) -> list[Tensor]:
    return [
        torch.empty(0, device=device) if shape is None else torch.randn(shape, device=device) / max(shape[-1], 1) ** 0.5
        for shape in weight_shapes(layout, n_hidden)
    ]


def bounds(lengths: list[int], device: str) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)


def run(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    return compact_encoder(x, bounds(lengths, str(x.device)), max(lengths, default=0), weights, layout)


def plain(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    """Sequence by sequence and head by head."""
    act = {"gelu": torch.nn.functional.gelu, "relu": torch.relu}[layout.activation]
    norm = partial(torch.nn.functional.layer_norm, normalized_shape=x.shape[1:], eps=layout.eps)
    for i in range(len(layout.heads)):
        w_qkv, b_qkv, w_out, b_out, *attention_norm = weights[12 * i : 12 * i + 6]
        w_up, b_up, w_down, b_down, *ffn_norm = weights[12 * i + 6 : 12 * i + 12]
        if layout.mha[i]:
            mixed = []
            for rows in x.split(lengths):
                out = b_out.expand(rows.shape)
                for h in range(layout.heads[i]):
                    unit = slice(h * layout.head_dim, (h + 1) * layout.head_dim)
                    q, k, v = (rows @ w_qkv[part, unit].t() + b_qkv[part, unit] for part in range(3))
                    out = out + torch.softmax(q @ k.t() / layout.head_dim**0.5, dim=-1) @ v @ w_out[unit]
                mixed.append(out)
            x = norm(x + (torch.cat(mixed) if mixed else x), weight=attention_norm[0], bias=attention_norm[1])
        if layout.ffn[i]:
            x = norm(x + act(x @ w_up.t() + b_up) @ w_down + b_down, weight=ffn_norm[0], bias=ffn_norm[1])
    return x


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_states_match_fp64_at_every_length(device, backend, lengths):
    x, weights = torch.randn(sum(lengths), HIDDEN, device=device), weights_of(MIXED, HIDDEN, device)
    want = plain(x.double(), lengths, [w.double() for w in weights], MIXED)
    assert_close_to_fp64(run(x, lengths, weights, MIXED), want)


LAYOUTS = {
    "no layer": replace(MIXED, heads=(), intermediate=(), mha=(), ffn=()),
    "all removed": replace(MIXED, heads=(0, 0), intermediate=(0, 0), mha=(False,) * 2, ffn=(False,) * 2),
    "no unit": replace(MIXED, heads=(0, 0), intermediate=(0, 0), mha=(True,) * 2, ffn=(True,) * 2),
    "relu": replace(MIXED, activation="relu"),
    "head of 64": replace(MIXED, heads=(1,), intermediate=(64,), mha=(True,), ffn=(True,), head_dim=64),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_states_match_fp64_for_every_layout(device, backend, layout):
    lengths = [5, 12, 5]
    x, weights = torch.randn(22, HIDDEN, device=device), weights_of(layout, HIDDEN, device)
    y = run(x, lengths, weights, layout)
    assert_close_to_fp64(y, plain(x.double(), lengths, [w.double() for w in weights], layout))
    assert y.data_ptr() != x.data_ptr()


def test_padded_attention_agrees_with_groups():
    """The reference attends by groups on a CPU and padded elsewhere; both are made here."""
    lengths = [0, 3, 9, 1, 9, 8]
    qkv, cu_seqlens = torch.randn(30, 3, 2, 8), bounds(lengths, "cpu")
    grouped = reference._attention_of(cu_seqlens, 9, 30, 2)(qkv)
    torch.testing.assert_close(reference._attend_padded(qkv, cu_seqlens, 9), grouped)


def test_bf16_is_no_worse_than_eager(device, backend):
    lengths = [5, 12]
    x, weights = torch.randn(17, HIDDEN, device=device).bfloat16(), weights_of(MIXED, HIDDEN, device)
    weights = [w.bfloat16() for w in weights]
    want = plain(x.double(), lengths, [w.double() for w in weights], MIXED)
    assert_no_worse_than_eager(run(x, lengths, weights, MIXED), plain(x, lengths, weights, MIXED), want)


def test_gradient_is_refused():
    x, weights = torch.randn(5, HIDDEN, requires_grad=True), weights_of(MIXED, HIDDEN, "cpu")
    with pytest.raises(RuntimeError, match="compact_encoder has no gradient"):
        run(x, [5], weights, MIXED).sum().backward()


def test_compiles_without_graph_break(device, backend):
    lengths = [5, 12]
    x, weights = torch.randn(17, HIDDEN, device=device), weights_of(MIXED, HIDDEN, device)
    call = partial(compact_encoder, cu_seqlens=bounds(lengths, device), max_seqlen=12, layout=MIXED)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weights=weights), call(x, weights=weights))


def test_registered_op_obeys_pytorch_contract(device, backend):
    counts = (list(MIXED.heads), list(MIXED.intermediate), list(MIXED.mha), list(MIXED.ffn))
    weights = weights_of(MIXED, HIDDEN, device)
    args = (torch.randn(7, HIDDEN, device=device), bounds([3, 4], device), 4, weights, *counts, 8, 1e-5)
    args = (*args, "gelu", "fp32")
    torch.library.opcheck(torch.ops.cofi_kernels.compact_encoder.default, args)


BAD_LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": ({"ffn": (True,)}, "ffn must have one entry for each of 5 layers, got 1"),
    "negative": ({"heads": (3, 0, -2, 0, 0)}, r"heads\[2\] must not be negative, got -2"),
    "removed heads": ({"mha": (False,) * 5}, r"heads\[0\] must be 0 where mha\[0\] is False, got 3"),
    "removed dims": (
        {"ffn": (True, False, False, False, True)},
        r"intermediate\[1\] must be 0 where ffn\[1\] is False",
    ),
    "head dim": ({"head_dim": 0}, "head_dim must be positive, got 0"),
    "eps": ({"eps": 0.0}, "eps must be positive, got 0.0"),
    "activation": ({"activation": "swish"}, "activation must be one of gelu, gelu_new, relu, got 'swish'"),
}


@pytest.mark.parametrize("change, message", BAD_LAYOUTS.values(), ids=BAD_LAYOUTS)
def test_rejects_wrong_layouts(change, message):
    with pytest.raises(ValueError, match=message):
        replace(MIXED, **change)


@pytest.mark.parametrize(
    "index, wrong, error, message",
    [
        (None, None, ValueError, "weights must hold 12 tensors for each of 5 layers, got 59"),
        (2, torch.zeros(HIDDEN, 24), ValueError, r"weights\[2\] \(w_out of layer 0\) must have shape \(24, 29\)"),
        (18, torch.zeros(7, 30), ValueError, r"weights\[18\] \(w_up of layer 1\) .* \(7, 29\), got \(7, 30\)"),
        (3, torch.zeros(HIDDEN).half(), TypeError, r"weights\[3\] \(b_out of layer 0\) must have the dtype of x"),
        (12, torch.zeros(0, device="meta"), ValueError, r"weights\[12\] \(w_qkv of layer 1\) must share a device"),
    ],
    ids=["count", "transposed", "width", "dtype", "device"],
)
def test_rejects_wrong_weights(index, wrong, error, message):
    weights = weights_of(MIXED, HIDDEN, "cpu")
    if index is None:
        weights.pop()
    else:
        weights[index] = wrong
    with pytest.raises(error, match=message):
        run(torch.randn(3, HIDDEN), [3], weights, MIXED)


def test_rejects_bounds_that_do_not_fit():
    weights = weights_of(MIXED, HIDDEN, "cpu")
    with pytest.raises(ValueError, match="max_seqlen must be at least the longest sequence, 3, got 2"):
        compact_encoder(torch.randn(3, HIDDEN), bounds([3], "cpu"), 2, weights, MIXED)
    with pytest.raises(ValueError, match="cu_seqlens must start at 0 and end at 4 tokens, got 0 and 3"):
        compact_encoder(torch.randn(4, HIDDEN), bounds([3], "cpu"), 4, weights, MIXED)
