"""Mask gradients of every sequence on its own: those the kernels give for a batch of that sequence alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cofi.masks import Masks
from cofi.models import CompactModel, PackedBatch, pack_padded
from cofi.models.probed import ProbedModel

from .tiny import MASK_SHAPES, model_of, padded_inputs, random_masks

LABELS = {
    "classification": {"labels": torch.tensor([0, 1, 1])},
    "token_classification": {"labels": torch.tensor([-100, 1, 1, 0, -100, 1, 0, 0, 0, 1, 1, -100, 0, 1, 0, 1])},
    "regression": {"labels": torch.tensor([0.3, 2.0, -1.5])},
    "embedding": {"labels": torch.randn(3, 24, generator=torch.Generator().manual_seed(0))},
    "question_answering": {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 5, 0])},
}
HEADS = {"regression": {"head": "classification", "problem_type": "regression", "num_labels": 1}}
CORNERS = {
    "all ones": {},
    "no head": {"head": torch.zeros(2, 4)},
    "no dim of layer 0": {"int": torch.stack([torch.zeros(40), torch.ones(40)])},
    "one unit": {"head": torch.eye(2, 4)[::2].repeat(2, 1), "int": torch.zeros(2, 40)},
    "no sublayer": {"mha": torch.zeros(2), "ffn": torch.zeros(2)},
    "no attention in layer 1": {"mha": torch.tensor([1.0, 0.0])},
    "no hidden dim": {"hidden": torch.zeros(24)},
}


def doubled(masks: Masks) -> Masks:
    return Masks.from_kinds({kind: z.double() for kind, z in masks.by_kind().items()})


def batch_of(rows: slice, inputs: dict[str, Tensor]) -> PackedBatch:
    taken = {name: values[rows] for name, values in inputs.items()}
    return pack_padded(**taken)


def one_by_one(
    model: CompactModel, masks: Masks, inputs: dict[str, Tensor], labels: dict[str, Tensor]
) -> dict[str, Tensor]:
    """By the model's own ops and autograd, a batch for each sequence."""
    found: dict[str, list[Tensor]] = {"head": [], "int": []}
    for i in range(3):
        z = {kind: masks.by_kind()[kind].clone().requires_grad_() for kind in found}
        here = Masks.from_kinds(masks.by_kind() | z)
        rows = slice(i, i + 1)
        batch = batch_of(rows, inputs)
        if model.config.head == "token_classification":
            first = int(inputs["attention_mask"][:i].sum())
            its_own = {"labels": labels["labels"][first : first + batch.n_tokens]}
            words = int((its_own["labels"] >= 0).sum())
        else:
            its_own, words = {name: values[rows] for name, values in labels.items()}, 1
        (model(batch=batch, masks=here, **its_own).loss * words).backward()
        for kind, units in z.items():
            found[kind].append(torch.zeros_like(units) if units.grad is None else units.grad)
    return {kind: torch.stack(each) for kind, each in found.items()}


def check(model: CompactModel, masks: Masks, labels: dict[str, Tensor]) -> dict[str, Tensor]:
    inputs = padded_inputs()
    want = one_by_one(model, masks, inputs, labels)
    found = ProbedModel(model, masks).gradients(batch_of(slice(3), inputs), labels)
    for kind, gradients in want.items():
        assert found[kind].shape == gradients.shape
        torch.testing.assert_close(found[kind], gradients, rtol=1e-8, atol=1e-10)
    return found


@pytest.mark.parametrize("head", LABELS)
@pytest.mark.parametrize("seed", range(3))
def test_every_sequence_has_the_gradients_of_its_own_loss(head, seed):
    torch.manual_seed(seed)
    model = model_of(**HEADS.get(head, {"head": head})).double()
    found = check(model, doubled(random_masks()), LABELS[head])
    assert any(bool((gradients != 0).any()) for gradients in found.values())


@pytest.mark.parametrize("corner", CORNERS)
def test_corners_of_the_masks(corner):
    ones = {kind: torch.ones(shape) for kind, shape in MASK_SHAPES.items()}
    masks = doubled(Masks.from_kinds(ones | CORNERS[corner]))
    found = check(model_of(head="classification").double(), masks, LABELS["classification"])
    assert all(bool((found[kind][:, masks.by_kind()[kind] == 0] == 0).all()) for kind in found)


def test_the_model_is_left_as_it_was():
    model = model_of(head="classification")
    modules = [type(module) for module in model.modules()]
    ProbedModel(model, Masks(torch.ones(2, 4), torch.ones(2, 40)))
    assert [type(module) for module in model.modules()] == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
