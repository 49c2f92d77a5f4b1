"""Dropout, residual and LayerNorm of one sublayer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.bench import Bench, Leaves, cast, compiled, in_dtype_of, with_gradients
from cofi_kernels import masked_layer_norm

OPS = ("masked_layer_norm", "masked_layer_norm_backward")
DROPOUT, EPS = 0.1, 1e-12


def _leaves(bench: Bench) -> Leaves:
    s = bench.sizes
    made = {name: torch.randn(s.tokens, s.hidden, device=bench.device) for name in ("x", "residual")}
    z_hidden = torch.rand(s.hidden, device=bench.device) * 0.9 + 0.1
    z_hidden[torch.randperm(s.hidden, device=bench.device)[: s.hidden // 100]] = 0.0
    affine = {name: 1.0 + 0.1 * torch.randn(s.hidden, device=bench.device) for name in ("w_norm", "b_norm")}
    return made | affine | {"z_hidden": z_hidden}


def _ours(state: Tensor, **leaves: Tensor) -> Tensor:
    order = [leaves.pop(name) for name in ("x", "residual", "w_norm", "b_norm")]
    return masked_layer_norm(*order, **leaves, eps=EPS, dropout_p=DROPOUT, dropout_state=state)


def _plain(x: Tensor, residual: Tensor, w_norm: Tensor, b_norm: Tensor, z_hidden: Tensor) -> Tensor:
    """Dense, all dims kept: nobody else normalises over some."""
    weight, bias = in_dtype_of(x, w_norm, b_norm)
    y = F.layer_norm(F.dropout(x, DROPOUT) + residual, weight.shape, weight, bias, EPS)
    return y * z_hidden.to(x.dtype)


def run(bench: Bench) -> None:
    base, state = _leaves(bench), torch.tensor([5, 7], device=bench.device)
    dy = torch.randn_like(base["x"]).to(bench.sizes.dtype)  # each mask gradient is of a column: nothing to lean towards

    def check(**leaves: Tensor) -> Iterable[tuple[str, Tensor]]:
        return with_gradients(_ours(state, **leaves), dy, leaves)

    if not bench.check("masked_layer_norm", "dropout and residual", check, base):
        return
    leaves, fast = cast(base, bench.sizes.dtype), compiled(_plain, smoke=bench.smoke)

    def both(function: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(), list(leaves.values()), dy)

    bench.contest(
        "masked_layer_norm",
        "dropout and residual",
        lambda: both(lambda: _ours(state, **leaves)),
        {"eager": lambda: both(lambda: _plain(**leaves)), "compiled": lambda: both(lambda: fast(**leaves))},
        floor=bench.floor(0.0, 8 * dy.numel() * dy.element_size()),
        ops=OPS,
    )
