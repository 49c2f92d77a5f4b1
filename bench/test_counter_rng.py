"""Counter dropout and uniforms: our kernels against the reference, eager and compiled, and PyTorch's own dropout."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import counter_dropout, counter_uniform
from cofi_kernels.counter_rng import reference

FAMILY = "counter_rng"
P = 0.1
# one sublayer's output and one layer's attention probabilities: BERT-base, 32 sentences of 128 tokens
SHAPES = {"hidden": (4096, 768), "attention": (12, 4096, 128)}


@pytest.mark.parametrize("case", SHAPES)
def test_dropout_forward(contest, compiled, device, case):
    x, state = torch.randn(SHAPES[case], device=device), torch.tensor([1, 2], device=device)
    rivals = {
        "eager": lambda: reference.counter_dropout(x, P, state),
        "compiled": _bound(compiled(reference.counter_dropout), x, P, state),
    }
    contest(
        FAMILY, f"dropout {case}", lambda: counter_dropout(x, P, state), rivals, bytes_moved=2 * x.nbytes, tolerance=0
    )


@pytest.mark.parametrize("case", SHAPES)
def test_dropout_against_stored_masks(contest, device, case):
    """PyTorch's dropout draws other numbers, so both answer with what a mask decides: how much is kept, to 1 %."""
    x, state = torch.ones(SHAPES[case], device=device), torch.tensor([1, 2], device=device)
    rivals = {"torch": lambda: torch.nn.functional.dropout(x, P).mean()}
    contest(
        FAMILY,
        f"dropout and mean {case}",
        lambda: counter_dropout(x, P, state).mean(),
        rivals,
        bytes_moved=3 * x.nbytes,
        tolerance=0.01,
    )


def test_uniform(contest, compiled, device):
    state, shape = torch.tensor([1, 2], device=device), SHAPES["hidden"]
    rivals = {
        "eager": lambda: reference.counter_uniform(state, shape),
        "compiled": _bound(compiled(reference.counter_uniform), state, shape),
    }
    size = counter_uniform(state, shape).nbytes
    contest(FAMILY, "uniform hidden", lambda: counter_uniform(state, shape), rivals, bytes_moved=size, tolerance=0)


def _bound(function, *arguments):
    return lambda: function(*arguments)
