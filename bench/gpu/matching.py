"""The layer matching matrix of four teacher layers, and the gradient of one entry for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.bench import Bench, Leaves, cast, compiled
from bench.gpu.record import Target
from cofi_kernels import layer_match

FACTOR = 1.5  # of the floor
OPS = ("layer_match", "layer_match_backward")


def _leaves(bench: Bench) -> Leaves:
    s = bench.sizes
    made = {f"teacher_{t}": torch.randn(s.tokens, s.hidden, device=bench.device) for t in range(s.n_matched)}
    made |= {f"student_{j}": torch.randn(s.tokens, s.hidden, device=bench.device) for j in range(s.n_layers)}
    eye = torch.eye(s.hidden, device=bench.device)
    return made | {
        "weight": eye + 0.02 * torch.randn_like(eye),
        "bias": 0.1 * torch.randn(s.hidden, device=bench.device),
    }


def _split(leaves: Leaves) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    teacher = [t.detach() for name, t in leaves.items() if name.startswith("teacher")]
    return teacher, [t for name, t in leaves.items() if name.startswith("student")], leaves["weight"], leaves["bias"]


def _every_entry(teacher: list[Tensor], student: list[Tensor], weight: Tensor, bias: Tensor, source: Tensor) -> Tensor:
    """Transforms all layers and takes the mean of every pair: what the official code does."""
    moved = [F.linear(state, weight, bias) for state in student]
    rows = [torch.stack([F.mse_loss(state.float(), target.float()) for state in moved]) for target in teacher]
    return torch.stack(rows)


def run(bench: Bench) -> None:
    s = bench.sizes
    matched = torch.arange(1, s.n_matched + 1, device=bench.device) * s.n_layers // s.n_matched - 1
    layers = torch.arange(s.n_layers, device=bench.device)
    live = {"all layers live": layers, "every second layer live": layers // 2 * 2}
    base = _leaves(bench)
    for case, source in live.items():
        chosen = source[matched]
        dm = torch.zeros(s.n_matched, s.n_layers, device=bench.device)
        dm[torch.arange(s.n_matched, device=bench.device), chosen] = 1.0
        bench.attempt(f"layer_match, {case}", partial(_checked_contest, bench, case, source, dm, base))


def _checked_contest(bench: Bench, case: str, source: Tensor, dm: Tensor, base: Leaves) -> None:
    if bench.check("layer_match", case, _both(source, dm), base):
        _contest(bench, case, source, dm, base)


def _both(source: Tensor, dm: Tensor) -> Callable[..., Iterable[tuple[str, Tensor]]]:
    def run(**leaves: Tensor) -> Iterable[tuple[str, Tensor]]:
        teacher, student, weight, bias = _split(leaves)
        m = layer_match(teacher, student, weight, bias, source=source)
        yield "matrix", m.detach()
        grads = torch.autograd.grad(m, [weight, bias, *student], dm.to(m.dtype))
        yield from zip(("dweight", "dbias", *(f"dstudent_{j}" for j in range(len(student)))), grads, strict=True)

    return run


def _contest(bench: Bench, case: str, source: Tensor, dm: Tensor, base: Leaves) -> None:
    s = bench.sizes
    teacher, student, weight, bias = _split(cast(base, s.dtype))
    inputs = [weight, bias, *student]

    def both(function: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(), inputs, dm)

    fast = compiled(_every_entry, smoke=bench.smoke)
    n_live, n_selected = len(set(source.tolist())), len(set(dm.nonzero()[:, 1].tolist()))
    state_bytes = s.tokens * s.hidden * weight.element_size()
    floor = bench.floor(
        2.0 * s.tokens * s.hidden**2 * (n_live + 3 * n_selected), state_bytes * (n_live + s.n_matched + s.n_layers)
    )
    bench.contest(
        "layer_match",
        case,
        lambda: both(lambda: layer_match(teacher, student, weight, bias, source=source)),
        {
            "eager": lambda: both(lambda: _every_entry(teacher, student, weight, bias, source)),
            "compiled": lambda: both(lambda: fast(teacher, student, weight, bias, source)),
        },
        floor=floor,
        target=lambda value, rivals: Target(f"layer_match at most {FACTOR}x its floor", FACTOR * floor * 1e6),
        ops=OPS,
    )
