"""Dropout of the model: a function of its state, in every place, with a counter of its own."""

from __future__ import annotations

import pytest
import torch

import cofi_kernels
from cofi.models.dropout import SITES_PER_STEP, dropout_sites

from .tiny import DROPS, model_of, padded_inputs

COUNTER_DROPOUT = cofi_kernels.counter_dropout


def test_dropout_follows_its_state():
    model, inputs = model_of(**DROPS).train(), padded_inputs()
    state = torch.tensor([11, 3])
    first, again = (model(**inputs, dropout_state=state).logits for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, model(**inputs, dropout_state=torch.tensor([11, 4])).logits)
    assert not torch.allclose(first, model(**inputs, dropout_state=torch.tensor([12, 3])).logits)
    assert not torch.allclose(first, model.eval()(**inputs, dropout_state=state).logits)


def test_dropout_without_a_state_draws_from_torch():
    model, inputs = model_of(**DROPS).train(), padded_inputs()
    torch.manual_seed(1)
    first, second = model(**inputs).logits, model(**inputs).logits
    torch.manual_seed(1)
    assert torch.equal(first, model(**inputs).logits)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("changes", "drops"),
    [
        ({"hidden_dropout_prob": 0.5}, True),
        ({"attention_probs_dropout_prob": 0.5}, True),
        ({"classifier_dropout": 0.5}, True),
        ({"classifier_dropout": 0.5, "pooler_dropout": True}, True),
        ({"classifier_dropout": 0.0}, False),
    ],
    ids=str,
)
def test_each_probability_has_an_effect(changes, drops):
    model, inputs = model_of(head="classification", **changes), padded_inputs()
    expected = model(**inputs).logits
    assert torch.allclose(model.train()(**inputs).logits, expected) is not drops


def test_dropout_keeps_the_mean():
    """The average over many states approaches the output without dropout before the last linear layer."""
    model, inputs = model_of(head="classification", classifier_dropout=0.5), padded_inputs()
    expected = model(**inputs).logits
    model.train()
    with torch.no_grad():
        drawn = torch.stack([model(**inputs, dropout_state=torch.tensor([5, step])).logits for step in range(400)])
    error = (drawn.mean(0) - expected).abs()
    assert (error < 5 * drawn.std(0) / 400**0.5).all()


def test_every_place_that_drops_has_a_site_of_its_own(monkeypatch):
    seen = []
    for name in ("masked_attention", "masked_layer_norm", "counter_dropout"):
        monkeypatch.setattr(cofi_kernels, name, recording(getattr(cofi_kernels, name), seen))
    model = model_of(**(DROPS | {"pooler_dropout": True})).train()
    model(**padded_inputs(), dropout_state=torch.tensor([7, 3]))
    assert len(seen) == 1 + 3 * 2 + 2  # embeddings; three in each of two layers; before pooler and classifier
    assert len(set(seen)) == len(seen)
    assert all(seed == 7 and offset // SITES_PER_STEP == 3 for seed, offset in seen)


def recording(run, seen):
    def recorded(*args, **kwargs):
        state = args[2] if run is COUNTER_DROPOUT else kwargs.get("dropout_state")
        if state is not None:
            seen.append(tuple(state.tolist()))
        return run(*args, **kwargs)

    return recorded


def test_sites_of_steps_never_meet():
    sites = torch.cat([dropout_sites(torch.tensor([9, step]), SITES_PER_STEP) for step in range(3)])
    assert len(set(map(tuple, sites.tolist()))) == len(sites)
    assert (sites[:, 0] == 9).all()


@pytest.mark.parametrize("state", [torch.zeros(3, dtype=torch.int64), torch.zeros(2)], ids=["shape", "dtype"])
def test_bad_dropout_state(state):
    with pytest.raises(ValueError, match="dropout_state must be int64 of shape"):
        model_of(**DROPS).train()(**padded_inputs(), dropout_state=state)
