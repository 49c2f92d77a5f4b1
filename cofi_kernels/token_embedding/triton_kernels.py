# mypy: disallow-untyped-defs=False, disable-error-code="assignment"
"""Token embeddings in Triton: each row is gathered, added, normalised and written once. bf16 and fp16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.dependent import wait_for_inputs
from cofi_kernels.launching import launch_options
from cofi_kernels.token_embedding import reference

_WARPS = 4


@triton.jit
def _row(table_ptr, numbers_ptr, token, n_rows, hidden, column):
    """Row numbers[token] of a table in fp32; NaN where there is no such row."""
    number = tl.load(numbers_ptr + token)
    exists = (number >= 0) & (number < n_rows)
    inside = column < hidden
    values = tl.load(table_ptr + number * hidden + column, mask=inside & exists, other=0.0).to(tl.float32)
    return tl.where(inside & (exists == 0), float("nan"), values)


@triton.jit(do_not_specialize=["n_words", "n_positions", "n_types"])
def embedding_kernel(
    ids_ptr,
    positions_ptr,
    types_ptr,
    word_ptr,
    position_ptr,
    type_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    n_words,
    n_positions,
    n_types,
    hidden: tl.constexpr,  # rows of 764 dims are then read 8 bytes at a time, otherwise 2
    eps,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Program i: token i. types_ptr may be None."""
    wait_for_inputs(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < hidden
    x = _row(word_ptr, ids_ptr, token, n_words, hidden, column)
    x += _row(position_ptr, positions_ptr, token, n_positions, hidden, column)
    if types_ptr is not None:
        x += _row(type_ptr, types_ptr, token, n_types, hidden, column)
    mean = tl.sum(x, 0) / hidden
    centred = tl.where(inside, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / hidden + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    y = centred * scale * weight + bias
    tl.store(out_ptr + token * hidden + column, y.to(out_ptr.dtype.element_ty), mask=inside)


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
    """As `reference.forward`; a row is NaN where a number is beyond its table."""
    if word.dtype not in (torch.bfloat16, torch.float16):
        return reference.forward(ids, positions, types, word, position, token_type, weight, bias, eps)
    return launch(ids, positions, types, word, position, token_type, weight, bias, eps)


def launch(
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
    """`forward` in any dtype that Triton adds."""
    hidden = word.shape[1]
    out = word.new_empty((ids.shape[0], hidden))
    if out.numel() == 0:
        return out
    numbers = [None if t is None else t.contiguous() for t in (ids, positions, types)]
    tables = [None if t is None else t.contiguous() for t in (word, position, token_type, weight, bias)]
    with torch.cuda.device_of(word):
        embedding_kernel[(ids.shape[0],)](
            *numbers,
            *tables,
            out,
            word.shape[0],
            position.shape[0],
            0 if token_type is None else token_type.shape[0],
            hidden,
            eps,
            triton.next_power_of_2(hidden),
            num_warps=_WARPS,
            **launch_options(word.device),
        )
    return out
