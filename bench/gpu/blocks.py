"""Masked FFN and attention sublayers as their units die, against matrix products of their shapes.

Weights are what training passes: fp32 masters beside activations in the benchmark's dtype, with fp32 gradients. Casts
are in our time and in that of plain operators; the products alone have operands that are cast already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.bench import Bench, Leaves, cast, compiled, in_dtype_of, leaning, with_gradients
from bench.gpu.clock import Run
from bench.gpu.record import Target
from cofi_kernels import force_backend, masked_attention, masked_ffn

DENSE_FACTOR = 1.1  # of the products alone
LIVE_FACTOR, LIVE_US = 1.2, 5.0  # at live fraction f: LIVE_US + LIVE_FACTOR f of the dense time


@dataclass(frozen=True)
class Block:
    """One kind of sublayer. ours, plain: forward from the leaves; gemms: its products, forward and backward, alone."""

    family: str
    ops: tuple[str, ...]
    leaves: Callable[[Bench, float], Leaves]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    gemms: Callable[[Bench], Run]
    flops: Callable[[Bench, float], float]


def _weights(bench: Bench, **shapes: tuple[int, ...]) -> Leaves:
    return {name: torch.randn(shape, device=bench.device) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def _mask(bench: Bench, n: int, live: float) -> Tensor:
    z = torch.rand(n, device=bench.device) * 0.9 + 0.1
    z[torch.randperm(n, device=bench.device)[max(1, round(n * live)) :]] = 0.0
    return z


def _times(bench: Bench, products: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Run:
    operands = [[torch.randn(shape, device=bench.device).to(bench.sizes.dtype) for shape in pair] for pair in products]
    return lambda: [a @ b for a, b in operands]


def _ffn_leaves(bench: Bench, live: float) -> Leaves:
    s = bench.sizes
    made = _weights(bench, x=(s.tokens, s.hidden), w_up=(s.intermediate, s.hidden), w_down=(s.intermediate, s.hidden))
    made |= _weights(bench, b_up=(s.intermediate,), b_down=(s.hidden,))
    z = {"z_int": _mask(bench, s.intermediate, live), "z_ffn": torch.tensor(0.9, device=bench.device)}
    return made | z | {"z_hidden": _mask(bench, s.hidden, 1.0)}


def _ffn_plain(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    b_up: Tensor,
    b_down: Tensor,
    z_int: Tensor,
    z_ffn: Tensor,
    z_hidden: Tensor,
) -> Tensor:
    w_up, w_down, b_up, b_down = in_dtype_of(x, w_up, w_down, b_up, b_down)
    h = F.gelu(F.linear(x, w_up, b_up)) * z_int.to(x.dtype)
    return torch.addmm(b_down, h, w_down) * (z_ffn * z_hidden).to(x.dtype)


def _ffn_gemms(bench: Bench) -> Run:
    t, e, i = bench.sizes.tokens, bench.sizes.hidden, bench.sizes.intermediate
    up, down = ((t, e), (e, i)), ((t, i), (i, e))
    return _times(bench, [up, down, up, down, ((i, t), (t, e)), ((i, t), (t, e))])


def _attention_leaves(bench: Bench, live: float) -> Leaves:
    s = bench.sizes
    rows = s.n_heads * s.head_dim
    made = _weights(bench, x=(s.tokens, s.hidden), w_qkv=(3, rows, s.hidden), w_out=(rows, s.hidden))
    made |= _weights(bench, b_qkv=(3, rows), b_out=(s.hidden,))
    bounds = torch.arange(s.n_sequences + 1, device=bench.device, dtype=torch.int32) * s.seqlen
    z = {"z_head": _mask(bench, s.n_heads, live), "z_mha": torch.tensor(0.9, device=bench.device)}
    return made | z | {"z_hidden": _mask(bench, s.hidden, 1.0), "cu_seqlens": bounds}


def _attention_ours(
    x: Tensor,
    w_qkv: Tensor,
    w_out: Tensor,
    b_qkv: Tensor,
    b_out: Tensor,
    z_head: Tensor,
    z_mha: Tensor,
    z_hidden: Tensor,
    cu_seqlens: Tensor,
    seqlen: int,
    head_dim: int,
) -> Tensor:
    return masked_attention(
        x,
        w_qkv,
        b_qkv,
        w_out,
        b_out,
        cu_seqlens,
        seqlen,
        head_dim=head_dim,
        z_head=z_head,
        z_mha=z_mha,
        z_hidden=z_hidden,
    )


def _attention_plain(
    x: Tensor,
    w_qkv: Tensor,
    w_out: Tensor,
    b_qkv: Tensor,
    b_out: Tensor,
    z_head: Tensor,
    z_mha: Tensor,
    z_hidden: Tensor,
    cu_seqlens: Tensor,
    seqlen: int,
    head_dim: int,
) -> Tensor:
    """For sequences of one length, as modelling code is written."""
    w_qkv, w_out, b_qkv, b_out = in_dtype_of(x, w_qkv, w_out, b_qkv, b_out)
    qkv = F.linear(x, w_qkv.flatten(0, 1), b_qkv.flatten()).view(-1, seqlen, 3, z_head.numel(), head_dim)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    context = F.scaled_dot_product_attention(q, k, v) * z_head.to(x.dtype)[:, None, None]
    y = torch.addmm(b_out, context.transpose(1, 2).reshape(x.shape[0], -1), w_out)
    return y * (z_mha * z_hidden).to(x.dtype)


def _attention_gemms(bench: Bench) -> Run:
    s = bench.sizes
    t, e, rows, b, n, d = s.tokens, s.hidden, s.n_heads * s.head_dim, s.n_sequences * s.n_heads, s.seqlen, s.head_dim
    scores, values = ((b, n, d), (b, d, n)), ((b, n, n), (b, n, d))
    forward = [((t, e), (e, 3 * rows)), scores, values, ((t, rows), (rows, e))]
    backward = [((t, e), (e, rows)), ((rows, t), (t, e)), scores, scores, values, values, values]
    return _times(bench, [*forward, *backward, ((t, 3 * rows), (3 * rows, e)), ((3 * rows, t), (t, e))])


def _ffn_flops(bench: Bench, live: float) -> float:
    s = bench.sizes
    return 12.0 * s.tokens * s.hidden * s.intermediate * live


def _attention_flops(bench: Bench, live: float) -> float:
    s = bench.sizes
    rows = s.n_heads * s.head_dim * live
    return 24.0 * s.tokens * s.hidden * rows + 14.0 * s.tokens * s.seqlen * rows


FFN = Block(
    "masked_ffn",
    ("masked_ffn", "masked_ffn_backward"),
    _ffn_leaves,
    lambda **leaves: masked_ffn(**leaves),
    _ffn_plain,
    _ffn_gemms,
    _ffn_flops,
)
ATTENTION = Block(
    "masked_attention",
    ("masked_attention", "masked_attention_backward"),
    _attention_leaves,
    _attention_ours,
    _attention_plain,
    _attention_gemms,
    _attention_flops,
)


def run(block: Block, bench: Bench) -> None:
    """Each live fraction is a case of its own: one that fails leaves the others."""
    dense: float | None = None
    for live in bench.sizes.live:
        case = _case(live)
        time = bench.attempt(f"{block.family}, {case}", partial(_checked_contest, block, bench, live, dense))
        dense = time if live == 1.0 else dense


def _case(live: float) -> str:
    return f"{live:.0%} live"


def _checked_contest(block: Block, bench: Bench, live: float, dense: float | None) -> float | None:
    """Our time in us, None where it would be that of wrong results."""
    s = bench.sizes
    fixed = {"seqlen": s.seqlen, "head_dim": s.head_dim} if block is ATTENTION else {}
    base, ours = block.leaves(bench, live), partial(block.ours, **fixed)
    with torch.no_grad(), force_backend("reference"):
        dy = leaning(ours(**base), s.dtype)

    def check(**leaves: Tensor) -> Iterable[tuple[str, Tensor]]:
        return with_gradients(ours(**leaves), dy, leaves)

    if not bench.check(block.family, _case(live), check, base):
        return None
    return _contest(block, bench, live, base, dy, dense, fixed)


def _contest(
    block: Block, bench: Bench, live: float, base: Leaves, dy: Tensor, dense: float | None, fixed: dict[str, int]
) -> float:
    leaves = cast(base, bench.sizes.dtype)
    needed = [t for t in leaves.values() if t.requires_grad]
    fast = compiled(block.plain, smoke=bench.smoke)

    def both(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(**leaves, **fixed), needed, dy)

    weights = sum(leaves[name].nbytes for name in leaves if name.startswith("w_"))
    moved = 4 * leaves["x"].nbytes + (2 * live + 1) * weights  # dead weights are not read, their gradients are zeros
    return bench.contest(
        block.family,
        _case(live),
        lambda: both(block.ours),
        {"gemms": block.gemms(bench), "eager": lambda: both(block.plain), "compiled": lambda: both(fast)},
        floor=bench.floor(block.flops(bench, live), moved),
        target=partial(_target, block.family, live, dense),
        ops=block.ops,
    )


def _target(family: str, live: float, dense: float | None, value: float, rivals: dict[str, float]) -> Target | None:
    """None where what the target is counted in was not timed."""
    if live == 1.0:
        limit = DENSE_FACTOR * rivals["gemms"] if "gemms" in rivals else None
        return None if limit is None else Target(f"{family}, dense: at most {DENSE_FACTOR}x its GEMMs", limit)
    if dense is None:
        return None
    return Target(f"{family} at {live:.0%}: 5 us + 1.2 f of dense", LIVE_US + LIVE_FACTOR * live * dense)
