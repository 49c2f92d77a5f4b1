"""Public op: argument checks and registration. It is for inference: it has no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.implementations import cpu, triton, unverified
from cofi_kernels.library import define_op
from cofi_kernels.token_embedding import reference

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def token_embedding(
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
    """LayerNorm(word[ids] + position[positions] + token_type[types]) for inference.

    ids, positions, types: (T,) int64; types and token_type both or neither
    word (V, E), position (P, E), token_type (Y, E); weight, bias (E,): fp32, bf16, fp16 or fp64
    returns (T, E), without a gradient.
    Raises ValueError or TypeError for a wrong shape, dtype or device, IndexError for a number beyond its table (on a
    CPU), and RuntimeError where a gradient is asked for.
    """
    _check_table("ids", ids, "word", word, ids, word)
    _check_table("positions", positions, "position", position, ids, word)
    if (types is None) != (token_type is None):
        raise ValueError("types and token_type must be given together")
    if types is not None and token_type is not None:
        _check_table("types", types, "token_type", token_type, ids, word)
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    for name, t in (("weight", weight), ("bias", bias)):
        checks.shape_is(name, t, (word.shape[1],))
        checks.like_x(word, **{name: t})
    return _forward(ids, positions, types, word, position, token_type, weight, bias, eps)


def _check_table(name: str, numbers: Tensor, table_name: str, table: Tensor, ids: Tensor, word: Tensor) -> None:
    checks.shape_is(name, numbers, ("tokens",) if numbers is ids else (ids.shape[0],))
    checks.dtype_in(name, numbers, (torch.int64,))
    checks.shape_is(table_name, table, ("rows", "hidden") if table is word else ("rows", word.shape[1]))
    checks.dtype_in(table_name, table, _DTYPES)
    checks.like_x(word, **{table_name: table})
    checks.same_device("word", word, **{name: numbers})


def _refuse_gradient(ctx: Any, *_: Any) -> None:
    raise RuntimeError("token_embedding has no gradient: call it under torch.inference_mode() or torch.no_grad()")


_forward = define_op(
    "token_embedding(Tensor ids, Tensor positions, Tensor? types, Tensor word, Tensor position, Tensor? token_type, "
    "Tensor weight, Tensor bias, float eps) -> Tensor",
    reference=reference.forward,
    implementations=[cpu(__package__, "forward"), unverified(triton(__package__, "forward"))],
    fake=lambda ids, positions, types, word, *_: word.new_empty((ids.shape[0], word.shape[1])),
    backward=_refuse_gradient,
    setup_context=lambda ctx, inputs, output: None,
)
