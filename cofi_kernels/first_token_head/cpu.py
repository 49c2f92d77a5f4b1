"""Launcher of the C++ kernel: fp32, other dtypes by the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.first_token_head import reference
from cofi_kernels.masked_ffn.activations import ACTIVATIONS
from cofi_kernels.native import address, load_native

# as csrc/cpu/first_token_head/bind.cpp counts
ACTIVATION_NUMBERS = {"tanh": -1} | {name: i for i, name in enumerate(ACTIVATIONS)}


def forward(
    x: Tensor,
    bounds: Tensor,
    w_pooler: Tensor | None,
    b_pooler: Tensor | None,
    activation: str,
    w_out: Tensor | None,
    b_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `reference.forward`."""
    if x.dtype != torch.float32:
        return reference.forward(x, bounds, w_pooler, b_pooler, activation, w_out, b_out)
    starts = bounds[:-1].tolist()
    if starts and not 0 <= min(starts) <= max(starts) < x.shape[0]:
        raise IndexError(
            f"bounds must begin every sequence at one of {x.shape[0]} tokens, got {min(starts)} to {max(starts)}"
        )
    given = [None if t is None else t.contiguous() for t in (x, bounds, w_pooler, b_pooler, w_out, b_out)]
    at = [address(t) for t in given]
    n_sequences = bounds.shape[0] - 1
    pooled = x.new_empty((n_sequences, 0 if w_pooler is None else w_pooler.shape[0]))
    logits = x.new_empty((n_sequences, 0 if w_out is None else w_out.shape[0]))
    load_native().first_token_head(
        x=at[0],
        bounds=at[1],
        sequences=n_sequences,
        hidden=x.shape[1],
        w_pooler=at[2],
        b_pooler=at[3],
        activation=ACTIVATION_NUMBERS[activation],
        pooled=pooled.data_ptr(),
        pooler=pooled.shape[1],
        w_out=at[4],
        b_out=at[5],
        logits=logits.data_ptr(),
        labels=logits.shape[1],
        threads=torch.get_num_threads(),
    )
    return pooled, logits
