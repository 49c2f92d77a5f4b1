"""Masked FFN and attention sublayers as their units die, against matrix products of their shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.bench import Bench, Leaves, cast, compiled, with_gradients
from bench.gpu.clock import Run
from bench.gpu.record import Target
from cofi_kernels import masked_attention, masked_ffn

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


def _attention_ours(cu_seqlens: Tensor, seqlen: int, head_dim: int, **leaves: Tensor) -> Tensor:
    order = [leaves.pop(name) for name in ("x", "w_qkv", "b_qkv", "w_out", "b_out")]
    return masked_attention(*order, cu_seqlens, seqlen, head_dim=head_dim, **leaves)


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
    s = bench.sizes
    fixed = {"seqlen": s.seqlen, "head_dim": s.head_dim} if block is ATTENTION else {}
    dense: float | None = None
    for live in s.live:
        base = block.leaves(bench, live)
        dy = torch.randn(s.tokens, s.hidden, device=bench.device)
        ours = partial(block.ours, **fixed)

        def check(ours: Callable[..., Tensor] = ours, dy: Tensor = dy, **leaves: Tensor):
            return with_gradients(ours(**leaves), dy, leaves)

        bench.check(block.family, f"{live:.0%} live", check, base)
        time = _contest(block, bench, live, base, dy, dense, fixed)
        dense = time if dense is None else dense


def _contest(
    block: Block, bench: Bench, live: float, base: Leaves, dy: Tensor, dense: float | None, fixed: dict[str, int]
) -> float:
    leaves, dtype = cast(base, bench.sizes.dtype), bench.sizes.dtype
    needed = [t for t in leaves.values() if t.requires_grad]
    dy = dy.to(dtype)
    fast = compiled(block.plain, smoke=bench.smoke)

    def both(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(**leaves, **fixed), needed, dy)

    def target(value: float, rivals: dict[str, float]) -> Target | None:
        if dense is None and "gemms" not in rivals:
            return None
        if dense is None:
            return Target(f"{block.family}, dense: at most {DENSE_FACTOR}x its GEMMs", DENSE_FACTOR * rivals["gemms"])
        return Target(f"{block.family} at {live:.0%}: 5 us + 1.2 f of dense", LIVE_US + LIVE_FACTOR * live * dense)

    weights = sum(leaves[name].numel() for name in leaves if name.startswith("w_")) * live
    moved = dtype.itemsize * (4 * bench.sizes.tokens * bench.sizes.hidden + 3 * weights)
    return bench.contest(
        block.family,
        f"{live:.0%} live",
        lambda: both(block.ours),
        {"gemms": block.gemms(bench), "eager": lambda: both(block.plain), "compiled": lambda: both(fast)},
        floor=bench.floor(block.flops(bench, live), moved),
        target=target,
        ops=block.ops,
    )
