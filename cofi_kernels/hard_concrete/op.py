"""Public ops: argument checks, registration, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks, implementations
from cofi_kernels.hard_concrete import reference
from cofi_kernels.hard_concrete.reference import MAGIC_SCALE, TEMPERATURE
from cofi_kernels.library import Implementation, define_op


def hard_concrete(loga: Tensor, noise: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Sample hard-concrete masks (Louizos et al., ICLR 2018, equations 10 to 12).

    loga:  fp32, any shape, log-odds of keeping a unit
    noise: u, fp32 of loga's shape in (0, 1); or an int64 (2,) counter state, whose uniforms are made inside the
           kernel and stored nowhere
    returns z, contiguous, loga's shape, in [0, 1]; differentiable in loga. A state must not change before the backward.
    """
    _check_gates(loga, temperature)
    checks.dtype_in("noise", noise, (torch.float32, torch.int64))
    checks.same_device("loga", loga, noise=noise)
    if noise.dtype == torch.int64:
        checks.counter_state("noise", noise)
    else:
        checks.same_shape("loga", loga, "noise", noise)
    return _sample(loga, noise, temperature)


def keep_probability(loga: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """P(z > 0) of each gate, within [1e-6, 1 - 1e-6] (method of the official code, clamp included).

    loga: fp32, any shape; returns fp32 of its shape, contiguous; differentiable in loga, with gradient 0 in the clamp
    """
    _check_gates(loga, temperature)
    return _keep(loga, temperature)


def deterministic_masks(
    loga: Tensor, offsets: Tensor, *, temperature: float = TEMPERATURE, magic_scale: float = MAGIC_SCALE
) -> Tensor:
    """The masks of evaluation and export: in each vector the expected number of gates is zero, the rest are soft.

    loga:    fp32 (n,), vectors one after another
    offsets: int32 (V + 1,), offsets[0] = 0 <= ... <= offsets[V] = n; vectors may be empty
    returns z (n,): of each vector the round(size - sum P(z > 0)) gates of lowest loga are 0 (half to even, ties from
    the front), the others sigmoid(loga / temperature * magic_scale). No gradient. Wrong offsets raise ValueError on
    a CPU; a GPU does not read them on the host, and a gate outside every vector stays soft there.
    """
    _check_gates(loga, temperature)
    _check_vectors("loga", loga, offsets)
    if magic_scale <= 0:
        raise ValueError(f"magic_scale must be positive, got {magic_scale}")
    return _deterministic(loga.detach(), offsets, temperature, magic_scale)


def live_indices(z: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Lists of the gates that are not zero, for kernels that skip the others.

    z: fp32 (n,); offsets: int32 (V + 1,) as for `deterministic_masks`
    returns indices int32 (n,): per vector the positions inside the vector with z != 0, ascending, from the front of
    its range, then -1; and counts int32 (V,)
    """
    checks.dtype_in("z", z, (torch.float32,))
    _check_vectors("z", z, offsets)
    return _live(z.detach(), offsets)


def _check_gates(loga: Tensor, temperature: float) -> None:
    checks.dtype_in("loga", loga, (torch.float32,))
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _check_vectors(name: str, gates: Tensor, offsets: Tensor) -> None:
    checks.shape_is(name, gates, ("gates",))
    checks.shape_is("offsets", offsets, ("vectors + 1",))
    checks.dtype_in("offsets", offsets, (torch.int32,))
    checks.same_device(name, gates, offsets=offsets)
    if offsets.numel() == 0:
        raise ValueError("offsets must hold at least the 0 it starts with, got none")


def _setup_sample(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    loga, noise, ctx.temperature = inputs
    ctx.save_for_backward(loga, noise)


def _sample_backward(ctx: Any, dz: Tensor) -> tuple[Tensor, None, None]:
    loga, noise = ctx.saved_tensors
    return _sample_gradient(dz, loga, noise, ctx.temperature), None, None


def _setup_keep(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    loga, ctx.temperature = inputs
    ctx.save_for_backward(loga)


def _keep_backward(ctx: Any, dp: Tensor) -> tuple[Tensor, None]:
    (loga,) = ctx.saved_tensors
    return _keep_gradient(dp, loga, ctx.temperature), None


def _deterministic_reference(loga: Tensor, offsets: Tensor, temperature: float, magic_scale: float) -> Tensor:
    checks.partition("offsets", offsets, loga.numel())
    return reference.deterministic_masks(loga, offsets, temperature, magic_scale)


def _live_reference(z: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    checks.partition("offsets", offsets, z.numel())
    return reference.live_indices(z, offsets)


def _like(gates: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(gates, memory_format=torch.contiguous_format)


def _faster(function: str) -> tuple[Implementation, ...]:
    return implementations.cpu(__package__, function), implementations.triton(__package__, function)


_sample_gradient = define_op(
    "hard_concrete_backward(Tensor dz, Tensor loga, Tensor noise, float temperature) -> Tensor",
    reference=reference.hard_concrete_backward,
    fake=_like,
    implementations=_faster("hard_concrete_backward"),
)
_sample = define_op(
    "hard_concrete(Tensor loga, Tensor noise, float temperature) -> Tensor",
    reference=reference.hard_concrete,
    fake=_like,
    implementations=_faster("hard_concrete"),
    backward=_sample_backward,
    setup_context=_setup_sample,
)
_keep_gradient = define_op(
    "keep_probability_backward(Tensor dp, Tensor loga, float temperature) -> Tensor",
    reference=reference.keep_probability_backward,
    fake=_like,
    implementations=_faster("keep_probability_backward"),
)
_keep = define_op(
    "keep_probability(Tensor loga, float temperature) -> Tensor",
    reference=reference.keep_probability,
    fake=_like,
    implementations=_faster("keep_probability"),
    backward=_keep_backward,
    setup_context=_setup_keep,
)
_deterministic = define_op(
    "deterministic_masks(Tensor loga, Tensor offsets, float temperature, float magic_scale) -> Tensor",
    reference=_deterministic_reference,
    fake=_like,
    implementations=_faster("deterministic_masks"),
)
_live = define_op(
    "live_indices(Tensor z, Tensor offsets) -> (Tensor, Tensor)",
    reference=_live_reference,
    fake=lambda z, offsets: (
        torch.empty_like(z, dtype=torch.int32, memory_format=torch.contiguous_format),
        offsets.new_empty(offsets.numel() - 1),
    ),
    implementations=_faster("live_indices"),
)
