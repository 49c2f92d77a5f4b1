"""All gates of BERT-base in one call: our kernels against the reference, eager and compiled."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import deterministic_masks, hard_concrete, keep_probability, live_indices
from cofi_kernels.hard_concrete import reference
from cofi_kernels.hard_concrete.reference import MAGIC_SCALE, TEMPERATURE

FAMILY = "hard_concrete"
# vectors of heads, intermediate dims, hidden dims and layers: BERT-base 37,800 gates, BERT-large 99,760
MODELS = {
    "bert-base": [12] * 12 + [3072] * 12 + [768] + [1] * 24,
    "bert-large": [16] * 24 + [4096] * 24 + [1024] + [1] * 48,
}


@pytest.fixture(params=MODELS)
def gates(request, device):
    """(model, loga, noise as a counter state, offsets)"""
    sizes = torch.tensor([0, *MODELS[request.param]])
    offsets = sizes.cumsum(0).to(torch.int32).to(device)
    loga = torch.randn(int(sizes.sum()), device=device) * 3
    return request.param, loga, torch.tensor([1, 2], device=device), offsets


def test_sample(contest, compiled, gates):
    model, loga, state, _ = gates
    fast = compiled(reference.hard_concrete)
    rivals = {
        "eager": lambda: reference.hard_concrete(loga, state, TEMPERATURE),
        "compiled": lambda: fast(loga, state, TEMPERATURE),
    }
    contest(FAMILY, f"sample {model}", lambda: hard_concrete(loga, state), rivals, bytes_moved=2 * loga.nbytes)


def test_sample_and_gradient(contest, compiled, gates):
    model, loga, state, _ = gates
    dz, leaf = torch.randn_like(loga), loga.clone().requires_grad_()

    def both(sample):
        z = sample()
        return z.detach(), *torch.autograd.grad(z, leaf, dz)

    fast = compiled(reference.hard_concrete)
    rivals = {
        "eager": lambda: both(lambda: reference.hard_concrete(leaf, state, TEMPERATURE)),
        "compiled": lambda: both(lambda: fast(leaf, state, TEMPERATURE)),
    }
    ours = lambda: both(lambda: hard_concrete(leaf, state))  # noqa: E731
    contest(FAMILY, f"sample and gradient {model}", ours, rivals, bytes_moved=5 * loga.nbytes)


def test_keep_probability(contest, compiled, gates):
    model, loga, _, _ = gates
    fast = compiled(reference.keep_probability)
    rivals = {
        "eager": lambda: reference.keep_probability(loga, TEMPERATURE),
        "compiled": lambda: fast(loga, TEMPERATURE),
    }
    contest(FAMILY, f"keep probability {model}", lambda: keep_probability(loga), rivals, bytes_moved=2 * loga.nbytes)


def test_deterministic_masks(contest, compiled, gates):
    model, loga, _, offsets = gates
    fast = compiled(reference.deterministic_masks)
    rivals = {
        "eager": lambda: reference.deterministic_masks(loga, offsets, TEMPERATURE, MAGIC_SCALE),
        "compiled": lambda: fast(loga, offsets, TEMPERATURE, MAGIC_SCALE),
    }
    ours = lambda: deterministic_masks(loga, offsets)  # noqa: E731
    contest(FAMILY, f"deterministic masks {model}", ours, rivals, bytes_moved=2 * loga.nbytes)


def test_live_indices(contest, compiled, gates):
    model, loga, state, offsets = gates
    z = hard_concrete(loga, state)
    fast = compiled(reference.live_indices)
    rivals = {"eager": lambda: reference.live_indices(z, offsets), "compiled": lambda: fast(z, offsets)}
    ours = lambda: live_indices(z, offsets)  # noqa: E731
    contest(FAMILY, f"live indices {model}", ours, rivals, bytes_moved=2 * loga.nbytes, tolerance=0)
