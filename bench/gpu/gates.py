"""The gates and the expected size of a whole model, as a pruning step uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bench.gpu.bench import Bench, compiled
from bench.gpu.judging import judge_fp32
from bench.gpu.record import Target
from cofi.masks import Gates
from cofi.masks.shape import ModelShape
from cofi_kernels import expected_size, hard_concrete, keep_probability
from cofi_kernels.expected_size import reference as size_reference
from cofi_kernels.hard_concrete import reference as gate_reference

LIMIT_US = 20.0
FAMILY, CASE = "hard_concrete + expected_size", "whole model"
OPS = ("hard_concrete", "keep_probability", "expected_size", "expected_size_backward")


def shape_of(bench: Bench) -> ModelShape:
    s = bench.sizes
    return ModelShape(s.n_layers, s.n_heads, s.head_dim, s.hidden, s.intermediate)


def _size(gates: Gates, p: Tensor, function: Callable[..., Tensor]) -> Tensor:
    shape, kinds = gates.shape, gates._split(p)
    counts = (shape.d_hidden, shape.n_layers, shape.n_heads, shape.d_int)
    probabilities = [kinds[name] for name in ("head", "int", "mha", "ffn", "hidden")]
    return function(*probabilities, float(shape.head_cost), float(shape.int_cost), *counts)


def _named_size(
    p_head: Tensor,
    p_int: Tensor,
    p_mha: Tensor,
    p_ffn: Tensor,
    p_hidden: Tensor,
    head_cost: float,
    int_cost: float,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> Tensor:
    sizes = {"n_hidden": n_hidden, "n_layers": n_layers, "n_heads": n_heads, "n_int": n_int}
    return expected_size(p_head, p_int, p_mha, p_ffn, p_hidden, head_cost=head_cost, int_cost=int_cost, **sizes)


def run(bench: Bench) -> None:
    gates = Gates(shape_of(bench), "all", init_means="sheared", init_std=2.0, seed=0).to(bench.device)
    loga = gates.loga.detach().clone().requires_grad_()
    u = torch.rand_like(loga).clamp(1e-6, 1 - 1e-6)
    dz = torch.randn_like(loga)
    dsize = torch.tensor(1e-8, device=bench.device)

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        z = hard_concrete(loga, u)
        size = _size(gates, keep_probability(loga), _named_size)
        (dloga,) = torch.autograd.grad([z, size], [loga], [dz, dsize])
        return z.detach(), size.detach(), dloga

    def plain(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = gate_reference.hard_concrete(x, noise, gate_reference.TEMPERATURE)
        p = gate_reference.keep_probability(x, gate_reference.TEMPERATURE)
        return z, _size(gates, p, size_reference.forward)

    if not _check(bench, ours(), plain, loga, u, dz, dsize):
        return
    fast = compiled(plain, smoke=bench.smoke)

    def both(function: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(loga, u), [loga], [dz, dsize])

    bench.contest(
        FAMILY,
        CASE,
        ours,
        {"eager": lambda: both(plain), "compiled": lambda: both(fast)},
        floor=bench.floor(0.0, 9 * loga.numel() * 4),
        target=lambda value, rivals: Target("gates and expected size, whole model", LIMIT_US),
        ops=OPS,
    )


def _check(
    bench: Bench,
    got: Iterable[Tensor],
    plain: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    loga: Tensor,
    u: Tensor,
    dz: Tensor,
    dsize: Tensor,
) -> bool:
    exact = loga.detach().double().requires_grad_()
    z, size = plain(exact, u.double())
    (dloga,) = torch.autograd.grad([z, size], [exact], [dz.double(), dsize.double()])
    pairs = zip(("z", "size", "dloga"), got, (z, size, dloga), strict=True)
    verdicts = {name: judge_fp32(value, want.detach()) for name, value, want in pairs}
    return bench.verdict(FAMILY, CASE, verdicts)
