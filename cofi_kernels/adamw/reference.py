"""AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019) with clipping by the total norm:
the definition every backend reproduces.

    c = min(1, max_norm / (norm of all gradients + 1e-6)), 1 where max_norm is 0
    g := c g, 0 for a gradient of None
    m := beta1 m + (1 - beta1) g                v := beta2 v + (1 - beta2) g^2
    p := p (1 - lr weight_decay) - lr m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORM_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_


def step(
    params: list[Tensor],
    grads: list[Tensor | None],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[float],
    lrs: list[float],
    weight_decays: list[float],
    beta1: float,
    beta2: float,
    eps: float,
    max_norm: float,
) -> Tensor:
    """Changes params, exp_avgs and exp_avg_sqs in place; returns the norm of all gradients before clipping, 0-dim."""
    norms = [torch.linalg.vector_norm(grad.float()) for grad in grads if grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else params[0].new_zeros((), dtype=torch.float32)
    clip = (max_norm / (norm + NORM_EPS)).clamp(max=1.0) if max_norm > 0 else torch.ones_like(norm)
    each = zip(params, grads, exp_avgs, exp_avg_sqs, steps, lrs, weight_decays, strict=True)
    for p, given, m, v, t, lr, weight_decay in each:
        grad = torch.zeros_like(p) if given is None else given * clip.to(p.dtype)
        m.mul_(beta1).add_(grad, alpha=1.0 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        denominator = (v.sqrt() / math.sqrt(1.0 - beta2**t)).add_(eps)
        p.mul_(1.0 - lr * weight_decay).addcdiv_(m, denominator, value=-lr / (1.0 - beta1**t))
    return norm
