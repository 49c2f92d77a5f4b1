"""Launcher of the C++ kernel: fp32 tensors that lie dense in memory; others by the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.adamw import reference
from cofi_kernels.native import address, load_native


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
    """As `reference.step`."""
    rest = steps, lrs, weight_decays, beta1, beta2, eps, max_norm
    changed = (*params, *exp_avgs, *exp_avg_sqs)
    if not all(t.dtype == torch.float32 and t.is_contiguous() for t in changed):
        return reference.step(params, grads, exp_avgs, exp_avg_sqs, *rest)
    dense = [None if grad is None else grad.contiguous() for grad in grads]
    norm = load_native().adamw(
        parameters=[t.data_ptr() for t in params],
        gradients=[address(grad) for grad in dense],
        exp_avgs=[t.data_ptr() for t in exp_avgs],
        exp_avg_sqs=[t.data_ptr() for t in exp_avg_sqs],
        sizes=[t.numel() for t in params],
        steps=steps,
        lrs=lrs,
        weight_decays=weight_decays,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        max_norm=max_norm,
        threads=torch.get_num_threads(),
    )
    return torch.tensor(norm, dtype=torch.float32)
