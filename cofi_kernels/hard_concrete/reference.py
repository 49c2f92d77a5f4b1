"""Hard-concrete gates in plain PyTorch: the definition every backend reproduces.

    s = sigmoid((log u - log(1 - u) + loga) / temperature)
    z = clamp(s (ZETA - GAMMA) + GAMMA, 0, 1)                     Louizos et al., ICLR 2018, equations 10 to 12
    P(z > 0) = sigmoid(loga - temperature log(-GAMMA / ZETA))     same paper, equation 12, clamped by EPSILON

Results are contiguous. Vectors of gates lie one after another in a flat tensor: v is [offsets[v], offsets[v + 1]).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import counter_uniform

GAMMA, ZETA = -0.1, 1.1  # stretch limits
EPSILON = 1e-6
TEMPERATURE = 2 / 3
MAGIC_SCALE = 0.8  # Wang et al., EMNLP 2020


def uniform_noise(noise: Tensor, loga: Tensor) -> Tensor:
    """`noise` itself where it is u already, otherwise the uniforms of the counter state that it is."""
    return counter_uniform(noise, loga.shape) if noise.dtype == torch.int64 else noise.contiguous()


def hard_concrete(loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    s = _concrete(loga, noise, temperature)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def hard_concrete_backward(dz: Tensor, loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    s = _concrete(loga, noise, temperature)
    stretched = s * (ZETA - GAMMA) + GAMMA
    inside = (stretched > 0) & (stretched < 1)  # the clamp passes no gradient outside
    return torch.where(inside, dz.contiguous() * s * (1 - s) * ((ZETA - GAMMA) / temperature), 0.0)


def _concrete(loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    u = uniform_noise(noise, loga)
    return torch.sigmoid((u.log() - (1 - u).log() + loga.contiguous()) / temperature)


def zero_point(temperature: float) -> float:
    """The loga at which a gate is as likely zero as not."""
    return temperature * math.log(-GAMMA / ZETA)


def keep_probability(loga: Tensor, temperature: float) -> Tensor:
    # 1 - clamp(sigmoid(zero_point - loga), ...) in the form that loses no digits where it is small
    return torch.sigmoid(loga.contiguous() - zero_point(temperature)).clamp(EPSILON, 1 - EPSILON)


def keep_probability_backward(dp: Tensor, loga: Tensor, temperature: float) -> Tensor:
    distance = loga.contiguous() - zero_point(temperature)
    p, q = torch.sigmoid(distance), torch.sigmoid(-distance)  # 1 - p would lose its digits near p = 1
    inside = (p >= EPSILON) & (p <= 1 - EPSILON)
    return torch.where(inside, dp.contiguous() * p * q, 0.0)


def deterministic_masks(loga: Tensor, offsets: Tensor, temperature: float, magic_scale: float) -> Tensor:
    """Per vector of n gates, zero the round(n - sum P(z > 0)) gates of lowest loga (half to even, ties from the front).

    The order of loga is the order of the soft values and does not depend on how a backend rounds its sigmoid.
    """
    vector = _vector_of(loga, offsets)
    p = keep_probability(loga, temperature).double()
    expected = torch.zeros(offsets.numel() - 1, dtype=torch.float64, device=loga.device).index_add(0, vector, p)
    num_zeros = torch.round(offsets.diff() - expected)
    rank = _rank_in_vector(loga, vector, offsets)
    soft = torch.sigmoid(loga / temperature * magic_scale)
    return torch.where(rank < num_zeros[vector], 0.0, soft)


def live_indices(z: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of z != 0 inside their vector, ascending at the front of its range, then -1; and how many they are."""
    vector, live = _vector_of(z, offsets), z != 0
    before = torch.nn.functional.pad(live.cumsum(0, dtype=torch.int32), (1, 0))  # live gates before each position
    first = before[offsets]
    start = offsets[vector]
    target = torch.where(live, start + before[:-1] - first[vector], z.numel())  # dead ones share a slot past the end
    position = torch.arange(z.numel(), dtype=torch.int32, device=z.device) - start
    indices = torch.full((z.numel() + 1,), -1, dtype=torch.int32, device=z.device)
    return indices.scatter(0, target.long(), position)[:-1].clone(), first.diff().to(torch.int32)


def _vector_of(gates: Tensor, offsets: Tensor) -> Tensor:
    """The vector each gate belongs to; right=True steps over empty vectors."""
    place = torch.arange(gates.numel(), dtype=offsets.dtype, device=gates.device)
    return torch.searchsorted(offsets[1:].contiguous(), place, right=True)


def _rank_in_vector(loga: Tensor, vector: Tensor, offsets: Tensor) -> Tensor:
    """How many gates of the same vector come before each one when sorted by (loga, index)."""
    by_loga = (loga + 0.0).argsort(stable=True)  # + 0.0: -0 equals 0, also for a sort of bit patterns
    order = by_loga[vector[by_loga].argsort(stable=True)]
    place = torch.arange(loga.numel(), device=loga.device)
    return torch.empty_like(place).scatter(0, order, place) - offsets[vector]
