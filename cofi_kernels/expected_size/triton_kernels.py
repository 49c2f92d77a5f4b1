"""Expected size in Triton: one launch forward, one backward, for the whole model.

Forward is one program: the 151 KB of BERT-base are a few microseconds for one multiprocessor, and a second launch to
add up what several wrote would cost as much. Backward is a program a layer, and one more for the hidden dims, whose
gradient is made of the sums over all layers: that one adds them up again rather than wait for the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng.triton_kernels import bits_of

_FORWARD_BLOCK = 16384  # probabilities looked at together: 16 a thread, three rounds for BERT-base
_FORWARD_WARPS = 32
_BACKWARD_BLOCK = 8192
_BACKWARD_WARPS = 32


@triton.jit
def _total(p_ptr, n, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of n probabilities."""
    total = tl.zeros((BLOCK,), DTYPE)
    for first in range(0, n, BLOCK):
        index = first + tl.arange(0, BLOCK)
        total += tl.load(p_ptr + index, mask=index < n, other=0.0)
    return tl.sum(total)


@triton.jit
def _kept_units(p_unit_ptr, p_layer_ptr, n_layers, n_units, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    """sum_i p_layer[i] sum_j p_unit[i, j]; an absent kind is 1."""
    if p_unit_ptr is None:
        if p_layer_ptr is None:
            kept = (n_layers * n_units).to(DTYPE)
        else:
            kept = _total(p_layer_ptr, n_layers, DTYPE, BLOCK) * n_units
    elif p_layer_ptr is None:
        kept = _total(p_unit_ptr, n_layers * n_units, DTYPE, BLOCK)
    else:
        total = tl.zeros((BLOCK,), DTYPE)
        for first in range(0, n_layers * n_units, BLOCK):
            index = first + tl.arange(0, BLOCK)
            mask = index < n_layers * n_units
            p = tl.load(p_unit_ptr + index, mask=mask, other=0.0)
            total += p * tl.load(p_layer_ptr + index // n_units, mask=mask, other=0.0)
        kept = tl.sum(total)
    return kept


@triton.jit
def _unit_factors(p_hidden_ptr, head_bits, int_bits, n_hidden, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    """What the kept heads and the kept intermediate dims are multiplied with in the size, in fp64.

    head_bits, int_bits: what a head and an intermediate dim cost, for each hidden dim where those are pruned
    """
    head_factor, int_factor = head_bits.to(tl.float64, bitcast=True), int_bits.to(tl.float64, bitcast=True)
    if p_hidden_ptr is not None:
        hidden = _total(p_hidden_ptr, n_hidden, DTYPE, BLOCK).to(tl.float64)
        head_factor, int_factor = hidden * head_factor, hidden * int_factor
    return head_factor, int_factor


@triton.jit(do_not_specialize=["head_bits", "int_bits", "n_hidden", "n_layers", "n_heads", "n_int"])
def _expected_size_fwd_kernel(
    p_head_ptr,
    p_int_ptr,
    p_mha_ptr,
    p_ffn_ptr,
    p_hidden_ptr,
    size_ptr,
    head_bits,
    int_bits,
    n_hidden,
    n_layers,
    n_heads,
    n_int,
    BLOCK: tl.constexpr,
):
    DTYPE: tl.constexpr = size_ptr.dtype.element_ty
    heads = _kept_units(p_head_ptr, p_mha_ptr, n_layers, n_heads, DTYPE, BLOCK)
    dims = _kept_units(p_int_ptr, p_ffn_ptr, n_layers, n_int, DTYPE, BLOCK)
    head_factor, int_factor = _unit_factors(p_hidden_ptr, head_bits, int_bits, n_hidden, DTYPE, BLOCK)
    tl.store(size_ptr, (head_factor * heads + int_factor * dims).to(DTYPE))


@triton.jit
def _layer_gradients(
    factor, p_unit_ptr, p_layer_ptr, dp_unit_ptr, dp_layer_ptr, layer, n_units, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):
    """Gradients of factor * p_layer[layer] * sum_j p_unit[layer, j] with respect to both."""
    if p_layer_ptr is not None:
        if p_unit_ptr is None:
            units = n_units.to(tl.float64)
        else:
            units = _total(p_unit_ptr + layer * n_units, n_units, DTYPE, BLOCK).to(tl.float64)
        tl.store(dp_layer_ptr + layer, (factor * units).to(DTYPE))
    if p_unit_ptr is not None:
        if p_layer_ptr is not None:
            factor = factor * tl.load(p_layer_ptr + layer)
        for first in range(0, n_units, BLOCK):
            index = first + tl.arange(0, BLOCK)
            row = dp_unit_ptr + layer * n_units + index
            tl.store(row, tl.zeros((BLOCK,), DTYPE) + factor.to(DTYPE), mask=index < n_units)


@triton.jit(do_not_specialize=["head_bits", "int_bits", "n_hidden", "n_layers", "n_heads", "n_int"])
def _expected_size_bwd_kernel(
    dsize_ptr,
    p_head_ptr,
    p_int_ptr,
    p_mha_ptr,
    p_ffn_ptr,
    p_hidden_ptr,
    dp_head_ptr,
    dp_int_ptr,
    dp_mha_ptr,
    dp_ffn_ptr,
    dp_hidden_ptr,
    head_bits,
    int_bits,
    n_hidden,
    n_layers,
    n_heads,
    n_int,
    BLOCK: tl.constexpr,
):
    DTYPE: tl.constexpr = dsize_ptr.dtype.element_ty
    layer = tl.program_id(0)
    dsize = tl.load(dsize_ptr).to(tl.float64)
    if layer < n_layers:
        head_factor, int_factor = _unit_factors(p_hidden_ptr, head_bits, int_bits, n_hidden, DTYPE, BLOCK)
        _layer_gradients(
            dsize * head_factor, p_head_ptr, p_mha_ptr, dp_head_ptr, dp_mha_ptr, layer, n_heads, DTYPE, BLOCK
        )
        _layer_gradients(dsize * int_factor, p_int_ptr, p_ffn_ptr, dp_int_ptr, dp_ffn_ptr, layer, n_int, DTYPE, BLOCK)
    elif p_hidden_ptr is not None:
        heads = _kept_units(p_head_ptr, p_mha_ptr, n_layers, n_heads, DTYPE, BLOCK)
        dims = _kept_units(p_int_ptr, p_ffn_ptr, n_layers, n_int, DTYPE, BLOCK)
        per_head, per_dim = head_bits.to(tl.float64, bitcast=True), int_bits.to(tl.float64, bitcast=True)
        dp_hidden = (dsize * (per_head * heads + per_dim * dims)).to(DTYPE)
        for first in range(0, n_hidden, BLOCK):
            index = first + tl.arange(0, BLOCK)
            tl.store(dp_hidden_ptr + index, tl.zeros((BLOCK,), DTYPE) + dp_hidden, mask=index < n_hidden)


def _contiguous(probabilities: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if p is None else p.contiguous() for p in probabilities]


def _cost_bits(head_cost: float, int_cost: float, n_hidden: int, p_hidden: Tensor | None) -> tuple[int, int]:
    """What `_unit_factors` takes. Divided here: a division of doubles is a call with a stack inside a kernel."""
    costs = (head_cost, int_cost) if p_hidden is None else (head_cost / n_hidden, 2.0)
    return bits_of(costs[0]), bits_of(costs[1])


def forward(
    p_head: Tensor | None,
    p_int: Tensor | None,
    p_mha: Tensor | None,
    p_ffn: Tensor | None,
    p_hidden: Tensor | None,
    head_cost: float,
    int_cost: float,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> Tensor:
    """As `reference.forward`."""
    probabilities = _contiguous((p_head, p_int, p_mha, p_ffn, p_hidden))
    size = next(p for p in probabilities if p is not None).new_empty(())
    costs = _cost_bits(head_cost, int_cost, n_hidden, p_hidden)
    with torch.cuda.device_of(size):
        _expected_size_fwd_kernel[(1,)](
            *probabilities,
            size,
            *costs,
            n_hidden,
            n_layers,
            n_heads,
            n_int,
            _FORWARD_BLOCK,
            num_warps=_FORWARD_WARPS,
        )
    return size


def backward(
    dsize: Tensor,
    p_head: Tensor | None,
    p_int: Tensor | None,
    p_mha: Tensor | None,
    p_ffn: Tensor | None,
    p_hidden: Tensor | None,
    head_cost: float,
    int_cost: float,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.backward`."""
    probabilities = _contiguous((p_head, p_int, p_mha, p_ffn, p_hidden))
    grads = [dsize.new_empty(0) if p is None else torch.empty_like(p) for p in probabilities]
    costs = _cost_bits(head_cost, int_cost, n_hidden, p_hidden)
    with torch.cuda.device_of(dsize):
        _expected_size_bwd_kernel[(n_layers + 1,)](
            dsize,
            *probabilities,
            *(None if p is None else dp for p, dp in zip(probabilities, grads, strict=True)),
            *costs,
            n_hidden,
            n_layers,
            n_heads,
            n_int,
            _BACKWARD_BLOCK,
            num_warps=_BACKWARD_WARPS,
        )
    dp_head, dp_int, dp_mha, dp_ffn, dp_hidden = grads
    return dp_head, dp_int, dp_mha, dp_ffn, dp_hidden
