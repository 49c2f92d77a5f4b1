"""What the `gathered` CPU backends share: pick the live units, fold the masks, put gradients back.

Skipping is exact: a unit whose mask is 0 adds nothing to the output, has zero gradients, and passes none to its mask.
So the live rows of the weights are copied together, small dense products are made with them, and the weight gradients
are scattered into zeros. N units (rows of a weight), E hidden, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.masking import accumulation_dtype, mask_gradient, times
from cofi_kernels.native import address, load_native
from cofi_kernels.products import matmul

# Copying a row's weights and putting its gradient back costs about as much time as computing it for this many tokens
# (three passes over memory at some 10 GB/s against the products of forward and backward at some 100 GFLOP/s).
GATHER_COST_TOKENS = 48


def is_dead(z_layer: Tensor | None) -> bool:
    """Whether a sublayer's own mask is 0. Reads the value: for CPU tensors."""
    return z_layer is not None and z_layer.item() == 0.0


def live_units(z: Tensor | None, n_tokens: int) -> Tensor | None:
    """Indices of the units to compute, int64; None for all of them, where copying would cost more than it saves.

    A function of its arguments alone: forward and backward must choose alike. With all units the masks' zeros still
    give exact zeros.
    """
    if z is None:
        return None
    live = z.nonzero()[:, 0]
    n_dead = z.numel() - live.numel()
    return live if n_dead * n_tokens > GATHER_COST_TOKENS * live.numel() else None


def take(weight: Tensor, rows: Tensor | None, dim: int = 0) -> Tensor:
    """The rows along `dim`, or the tensor itself for None."""
    return weight if rows is None else weight.index_select(dim, rows)


def take_mask(z: Tensor | None, units: Tensor | None) -> Tensor | None:
    """The live part of a mask that may be absent."""
    return None if z is None else take(z, units)


def put_back(gradient: Tensor, rows: Tensor | None, n_rows: int, dim: int = 0) -> Tensor:
    """The inverse of `take` for gradients: zeros for the rows that were not taken."""
    if rows is None:
        return gradient
    shape = (*gradient.shape[:dim], n_rows, *gradient.shape[dim + 1 :])
    return gradient.new_zeros(shape).index_copy_(dim, rows, gradient)


def zero_gradients(shapes: Sequence[Sequence[int]], masks: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    """All gradients of a sublayer that is dead: zeros of `shapes` in the dtype of `like`, and of each mask's."""
    zeros = (like.new_zeros(tuple(shape)) for shape in shapes)
    return *zeros, *(like.new_empty(0) if z is None else torch.zeros_like(z) for z in masks)


class OutputProjection(NamedTuple):
    """z_hidden * z_layer * ((z_unit * c) W + b). The masks go into W and b as these are read.

    So they cost nothing, or passes over (N, E) rather than over (T, N) and (T, E). Absent masks are 1.
    """

    weight: Tensor  # (N, E)
    bias: Tensor  # (E,)
    z_unit: Tensor | None  # (N,)
    z_layer: Tensor | None  # 0-dim
    z_hidden: Tensor | None  # (E,)

    def forward(self, c: Tensor) -> Tensor:
        """c (T, N), unmasked -> (T, E)."""
        scale = self._scale()
        return matmul(c, self.weight, times(self.bias, scale), k_scale=self.z_unit, n_scale=scale)

    def input_gradient(self, dy: Tensor) -> Tensor:
        """dy (T, E) -> the gradient of c (T, N)."""
        return matmul(dy, self.weight.t(), k_scale=self._scale(), n_scale=self.z_unit)

    def gradients(self, dy: Tensor, c: Tensor) -> ProjectionGradients:
        """From dy (T, E) and the unmasked input c (T, N). All sums come from one product of the weight's size."""
        unscaled = matmul(c.t(), dy)  # (N, E): dweight without any mask
        sum_dy = dy.sum(0, dtype=accumulation_dtype(dy.dtype))
        scale = self._scale()
        dbias = times(sum_dy, scale).to(dy.dtype)
        if self.z_unit is None and scale is None:
            return ProjectionGradients(unscaled, dbias, *(dy.new_empty(0) for _ in range(3)))
        dz_unit, dy_y = self._in_one_pass(unscaled, scale)
        dy_y = dy_y + self.bias * sum_dy  # sum_t dy * (y without its two masks)
        dz_hidden = mask_gradient(times(dy_y, self.z_layer), self.z_hidden)
        dz_layer = mask_gradient(times(dy_y, self.z_hidden).sum(), self.z_layer)
        return ProjectionGradients(unscaled, dbias, dz_unit, dz_layer, dz_hidden)

    def _in_one_pass(self, unscaled: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """sum_e unscaled * W * scale (N,) and sum_n z_unit * unscaled * W (E,); masks `unscaled` in place."""
        native, weight = load_native(), self.weight
        given = (unscaled, weight, *(t for t in (self.z_unit, scale) if t is not None))
        if native is None or not all(t.dtype == torch.float32 and t.is_contiguous() for t in given):
            return self._in_passes(unscaled, scale)
        dz_unit, dy_y = unscaled.new_empty(weight.shape[0]), unscaled.new_empty(weight.shape[1])
        native.projection_gradients(
            product=unscaled.data_ptr(),
            weight=weight.data_ptr(),
            unit=address(self.z_unit),
            scale=address(scale),
            dunit=dz_unit.data_ptr(),
            total=dy_y.data_ptr(),
            rows=weight.shape[0],
            width=weight.shape[1],
            threads=torch.get_num_threads(),
        )
        return dz_unit, dy_y

    def _in_passes(self, unscaled: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        acc = accumulation_dtype(unscaled.dtype)
        product = unscaled.to(acc) * self.weight
        dz_unit = product.sum(1) if scale is None else product @ scale.to(acc)
        dy_y = product.sum(0) if self.z_unit is None else self.z_unit.to(acc) @ product
        for factor in (None if self.z_unit is None else self.z_unit[:, None], scale):
            if factor is not None:
                unscaled.mul_(factor.to(unscaled.dtype))
        return dz_unit, dy_y

    def _scale(self) -> Tensor | None:
        """z_hidden * z_layer, (E,); None where both are absent."""
        if self.z_layer is None:
            return self.z_hidden
        if self.z_hidden is None:
            return self.z_layer.expand(self.weight.shape[1]).contiguous()
        return self.z_hidden * self.z_layer


class ProjectionGradients(NamedTuple):
    dweight: Tensor
    dbias: Tensor
    dz_unit: Tensor  # (N,), not yet zero where z_unit is
    dz_layer: Tensor
    dz_hidden: Tensor
