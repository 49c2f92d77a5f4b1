"""Small pieces that every masked op shares: scaling by optional masks and the rule for mask gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for low precision, otherwise the dtype itself: what statistics and mask gradients are summed in."""
    return torch.promote_types(dtype, torch.float32)


def times(x: Tensor, *factors: Tensor | None) -> Tensor:
    """x times the factors that are there, in x's dtype."""
    for factor in factors:
        if factor is not None:
            x = x * factor.to(x.dtype)
    return x


def mask_gradient(dz: Tensor, z: Tensor | None) -> Tensor:
    """The gradient of a mask as this package defines it: 0 where z is 0, in z's dtype; empty for an absent mask.

    The clamp of the hard-concrete gate passes no gradient there, and it is what lets kernels skip dead units.
    """
    if z is None:
        return dz.new_empty(0)
    return torch.where(z != 0, dz, 0.0).to(z.dtype)


def mask_gradient_like(z: Tensor | None, like: Tensor) -> Tensor:
    """Uninitialised tensor with the shape and dtype of `mask_gradient`'s result: for fake kernels."""
    return like.new_empty(0) if z is None else torch.empty_like(z)
