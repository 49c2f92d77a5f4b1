"""Four teacher layers of BERT-base against its twelve student layers, all live or most repeated, against autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cofi_kernels import layer_match
from cofi_kernels.testing import FP32_TOLERANCE

FAMILY = "layer_match"
TOKENS, HIDDEN = 256, 768
SOURCES = {"12 live": tuple(range(12)), "7 live": (0, 1, 2, 2, 2, 2, 2, 2, 8, 9, 10, 11)}
SELECTED = ((0, 1), (1, 2), (2, 8), (3, 11))


def every_entry(teacher, student, weight, bias):
    """Transforms all layers and takes the mean of every pair: what the official code does."""
    transformed = [F.linear(state, weight, bias) for state in student]
    rows = [torch.stack([F.mse_loss(state, target) for state in transformed]) for target in teacher]
    return torch.stack(rows)


@pytest.mark.parametrize("case", SOURCES)
def test_matrix_and_selected_gradients(contest, device, case):
    source = SOURCES[case]
    teacher = [torch.randn(TOKENS, HIDDEN, device=device) for _ in range(4)]
    distinct = {j: torch.randn(TOKENS, HIDDEN, device=device, requires_grad=True) for j in sorted(set(source))}
    student = [distinct[j] for j in source]
    weight = (torch.eye(HIDDEN) + 0.01 * torch.randn(HIDDEN, HIDDEN)).to(device).requires_grad_()
    bias = torch.zeros(HIDDEN, device=device, requires_grad=True)
    leaves = [weight, bias, *(distinct[j] for j in sorted({j for _, j in SELECTED}))]

    def both(function):
        m = function()
        loss = sum(m[entry] for entry in SELECTED)
        return m.detach(), *torch.autograd.grad(loss, leaves)

    one_gemm = 2.0 * TOKENS * HIDDEN * HIDDEN
    contest(
        FAMILY,
        f"matrix and selected gradients, {case}",
        lambda: both(lambda: layer_match(teacher, student, weight, bias, source=source)),
        {"eager": lambda: both(lambda: every_entry(teacher, student, weight, bias))},
        bytes_moved=4 * TOKENS * HIDDEN * (len(distinct) + 4 + 4 * len(SELECTED)),
        flops=one_gemm * (len(distinct) + 3 * len(SELECTED)),
        tolerance=2 * FP32_TOLERANCE,  # either may be off by one
    )
