"""The products of the compact encoder in int8 and bf16 in plain PyTorch: their definition.

bf16: both factors rounded to nearest, products and sums in the dtype of x.
int8: weights per output channel, symmetric, the largest value at 127; activations per token, from its smallest value
(0) to its largest (255). The sums of integers are exact. Nothing is calibrated.
"""

from __future__ import annotations

import torch
from torch import Tensor

FFN_BLOCK = 512  # intermediate dims whose activations share a scale, and whose part of W_down has scales of its own
SMALLEST_RANGE = 1e-30  # of a token's values; below it the token is taken to be constant
MOST_DEPTH = 66_000  # K of an int8 product, whose sums are of 32 bits: 255 * 127 * K < 2^31


def check_depth(name: str, depth: int, precision: str) -> None:
    """Raise ValueError where `precision` cannot sum `depth` products: `name` says what they are of."""
    if precision == "int8" and depth > MOST_DEPTH:
        raise ValueError(f"{name} must be at most {MOST_DEPTH} in int8, whose sums are of 32 bits, got {depth}")


def bf16_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (T, K) @ weight (K, N) + bias (N,), both factors rounded to bf16; x's dtype."""
    y = x.bfloat16().to(x.dtype) @ weight.bfloat16().to(x.dtype)
    return y if bias is None else y + bias


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (T, K) @ weight (K, N) + bias (N,), both factors quantized; x's dtype. NaN where a factor is not finite."""
    q, step, low = quantize_tokens(x)
    w, scale = quantize_channels(weight)
    product = (q.double() @ w.double()).to(x.dtype)
    y = scale * (step * product + low * w.sum(0))
    return y if bias is None else y + bias


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, K) -> whole numbers (T, K) in [0, 255], step and lowest value (T, 1) each."""
    if x.shape[1] == 0:
        zeros = x.new_zeros((x.shape[0], 1))
        return x, zeros, zeros
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    width = high - low
    constant = width < SMALLEST_RANGE
    step = torch.where(constant, 0.0, width / 255)
    q = torch.floor((x - low) * (255 / torch.where(constant, 1.0, width)) + 0.5)
    return torch.where(constant, 0.0, q), step, low


def quantize_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (K, N) -> whole numbers (K, N) in [-127, 127] and the step of each column (N,)."""
    if weight.shape[0] == 0:
        return weight, weight.new_zeros(weight.shape[1])
    step = weight.abs().amax(0) / 127
    return torch.round(weight / torch.where(step == 0, 1.0, step)), step
