"""Launcher of the C++ kernel: fp32, other dtypes by the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.checks import beyond_table
from cofi_kernels.native import load_native
from cofi_kernels.token_embedding import reference


def forward(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """As `reference.forward`."""
    if word.dtype != torch.float32:
        return reference.forward(ids, positions, types, word, position, token_type, weight, bias, eps)
    pairs = [(ids, word), (positions, position)]
    if types is not None and token_type is not None:
        pairs.append((types, token_type))
    pairs = [(numbers.contiguous(), table.contiguous()) for numbers, table in pairs]
    weight, bias = weight.contiguous(), bias.contiguous()
    out = word.new_empty((ids.shape[0], word.shape[1]))
    wrong = load_native().token_embedding(
        numbers=[numbers.data_ptr() for numbers, _ in pairs],
        tables=[table.data_ptr() for _, table in pairs],
        rows=[table.shape[0] for _, table in pairs],
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        eps=eps,
        out=out.data_ptr(),
        tokens=out.shape[0],
        hidden=out.shape[1],
        threads=torch.get_num_threads(),
    )
    if wrong >= 0:
        name = ("ids", "positions", "types")[wrong]
        numbers, table = pairs[wrong]
        raise beyond_table(name, numbers, table.shape[0])
    return out
