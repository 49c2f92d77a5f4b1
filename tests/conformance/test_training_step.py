"""One whole step of pruning with distillation against the official trainer: losses, gradients of gates, multipliers
and weights.

The official layer loss averages over padding too, which is never computed here. So the step is compared in two: the
official forward written out with padding, under our gates, losses and Lagrangian, must give the official numbers; and
our packed model must give what that forward gives when only tokens are averaged.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from cofi.distill import LayerDistillation, matched_loss, prediction_loss
from cofi.distill.matching import teacher_layers
from cofi.masks import Gates, Lagrangian, Masks, ModelShape, expected_sparsity
from cofi_kernels import layer_match

from .golden_models import (
    PaddedBert,
    load_official,
    model_inputs,
    official_gradients,
    squeezed,
    with_prefix,
)
from .goldens import OFFICIAL_KINDS, assert_gradient, load, tensor
from .test_distillation import intended_rule, nearest_rule, official_rule

ALPHA_CE, ALPHA_LAYER, TEMPERATURE = 0.1, 0.9, 2.0
VERSIONS = {"v3": "nearest", "v4": "nearest_in_order"}
TRANSFORM = "layer_transformation"


@pytest.fixture(scope="module")
def golden(golden_dir):
    return load(golden_dir, "trainstep_tiny12")


@dataclass
class Parts:
    """What learns in a step beside the model."""

    gates: Gates
    lagrangian: Lagrangian
    masks: Masks


def n_heads(golden: Mapping[str, np.ndarray]) -> int:
    return golden["loga_head"].shape[1]


def parts(golden: Mapping[str, np.ndarray]) -> Parts:
    """Gates, their sample from the stored noise, and multipliers, as the official step had them."""
    (n_layers, heads), n_int = golden["loga_head"].shape, golden["loga_intermediate"].shape[1]
    d_hidden = golden["loga_hidden"].size
    gates = Gates(ModelShape(n_layers, heads, d_hidden // heads, d_hidden, n_int), "all", seed=0)
    lagrangian = Lagrangian()
    with torch.no_grad():
        for kind, view in gates.views().items():
            view.copy_(tensor(golden[f"loga_{OFFICIAL_KINDS[kind]}"]))
        lagrangian.lambda_1.copy_(tensor(golden["lambda_1"]))
        lagrangian.lambda_2.copy_(tensor(golden["lambda_2"]))
    noise = torch.cat([tensor(golden[f"eps_{OFFICIAL_KINDS[kind]}"]).reshape(-1) for kind in gates.kinds])
    return Parts(gates, lagrangian, gates.sample(noise))


def losses(golden, version: str, part: Parts, logits: Tensor, teacher_logits: Tensor, layer_loss: Tensor) -> dict:
    sparsity = expected_sparsity(part.gates)
    student, teacher = SimpleNamespace(logits=logits), SimpleNamespace(logits=teacher_logits)
    ce = prediction_loss("classification", student, teacher, temperature=TEMPERATURE)
    lag = part.lagrangian(sparsity, float(golden[f"{version}__target_sparsity"]))
    total = ALPHA_CE * ce + ALPHA_LAYER * layer_loss + lag
    return {"expected_sparsity": sparsity, "ce_loss": ce, "lag_loss": lag, "layer_loss": layer_loss, "total": total}


def distance_matrix(teacher: Sequence[Tensor], student: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    picked = teacher_layers(len(teacher))
    return layer_match([teacher[t] for t in picked], list(student), weight, bias)


def rules(version: str, mse: Tensor, masks: Masks) -> tuple[list[int], list[int]]:
    """The official alignment and the intended one."""
    rows, n_layers = mse.tolist(), mse.shape[1]
    if version == "v3":
        return nearest_rule(rows, [True] * n_layers), nearest_rule(rows, masks.live_layers(n_layers).tolist())
    return official_rule(rows, masks), intended_rule(rows, masks)


def flat(states: Sequence[Tensor], keep: Tensor) -> list[Tensor]:
    return [state[keep] for state in states]


def test_sampled_masks(golden):
    masks = parts(golden).masks
    for kind, z in masks.by_kind().items():
        torch.testing.assert_close(z, squeezed(golden[f"zs_{OFFICIAL_KINDS[kind]}_z"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_forward(who, golden, tmp_path):
    """Our student under the sampled masks, and our teacher without."""
    model = load_official(tmp_path / who, with_prefix(golden, f"{who}__"), n_heads(golden), "SequenceClassification")
    masks = parts(golden).masks if who == "student" else None
    output = model(**model_inputs(golden), masks=masks, output_hidden_states=True)
    torch.testing.assert_close(output.logits, tensor(golden[f"{who}_logits"]), rtol=0, atol=1e-5)
    is_token = tensor(golden["attention_mask"]) != 0
    for state, want in zip(output.hidden_states, tensor(golden[f"{who}_hidden"]), strict=True):
        torch.testing.assert_close(state[is_token], want[is_token], rtol=0, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_official_numbers(version, golden):
    """With padding, and with the alignment that the official rule chooses."""
    part = parts(golden)
    student = PaddedBert(with_prefix(golden, "student__"), n_heads(golden))
    logits, states = student(model_inputs(golden), part.masks)
    torch.testing.assert_close(torch.stack(states), tensor(golden["student_hidden"]), rtol=0, atol=1e-5)
    everything = torch.ones(states[0].shape[:2], dtype=torch.bool)
    teacher = flat(tensor(golden["teacher_hidden"])[1:], everything)
    weight, bias = student.w[f"{TRANSFORM}.weight"], student.w[f"{TRANSFORM}.bias"]
    mse = distance_matrix(teacher, flat(states[1:], everything), weight, bias)
    official, _ = rules(version, mse.detach(), part.masks)
    layer_loss = matched_loss(mse, torch.tensor(official))
    found = losses(golden, version, part, logits, tensor(golden["teacher_logits"]), layer_loss)
    for name, value in found.items():
        assert value.item() == pytest.approx(float(golden[f"{version}__{name}"]), rel=1e-5, abs=1e-6), name
    found["total"].backward()
    views = part.gates.views()
    grads = part.gates.loga.grad.split([view.numel() for view in views.values()])
    for kind, grad in zip(views, grads, strict=True):
        assert_gradient(grad, golden[f"{version}__grad_loga_{OFFICIAL_KINDS[kind]}"], kind, slack=1e-7)
    for name in ("lambda_1", "lambda_2"):
        assert_gradient(getattr(part.lagrangian, name).grad, golden[f"{version}__grad_{name}"], name)
    check_norms(golden, version, {name: w.grad for name, w in student.w.items()})


def check_norms(golden, version: str, gradients: Mapping[str, Tensor | None]) -> None:
    expected = with_prefix(golden, f"{version}__gradnorm__")
    assert expected.keys() <= gradients.keys()
    for name, norm in expected.items():
        grad = gradients[name]
        got = 0.0 if grad is None else grad.norm().item()
        assert got == pytest.approx(float(np.nan_to_num(norm)), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("version", VERSIONS)
def test_packed_step_is_the_official_one_without_padding(version, golden, tmp_path):
    inputs = model_inputs(golden)
    is_token = inputs["attention_mask"] != 0
    teacher = load_official(tmp_path / "t", with_prefix(golden, "teacher__"), n_heads(golden), "SequenceClassification")
    with torch.no_grad():
        target = teacher(**inputs, output_hidden_states=True)
    targets = flat(target.hidden_states[1:], is_token)

    part = parts(golden)
    model = load_official(tmp_path / "s", with_prefix(golden, "student__"), n_heads(golden), "SequenceClassification")
    output = model(**inputs, masks=part.masks, output_hidden_states=True)
    n_layers, hidden = len(model.layers), model.config.hidden_size
    distill = LayerDistillation(hidden, hidden, n_layers, n_layers, VERSIONS[version])
    live = part.masks.live_layers(n_layers)
    layer_loss, alignment = distill(targets, flat(output.hidden_states[1:], is_token), live, random.Random(0))
    ours = losses(golden, version, part, output.logits, target.logits, layer_loss)
    ours["total"].backward()

    padded = parts(golden)
    student = PaddedBert(with_prefix(golden, "student__"), n_heads(golden))
    logits, states = student(inputs, padded.masks)
    weight, bias = student.w[f"{TRANSFORM}.weight"], student.w[f"{TRANSFORM}.bias"]
    mse = distance_matrix(targets, flat(states[1:], is_token), weight, bias)
    _, intended = rules(version, mse.detach(), padded.masks)
    assert alignment.tolist() == intended
    expected = losses(golden, version, padded, logits, target.logits, matched_loss(mse, torch.tensor(intended)))
    expected["total"].backward()

    for name, value in expected.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name
    assert_gradient(part.gates.loga.grad, padded.gates.loga.grad.numpy(), "loga", slack=1e-7)
    assert_gradient(distill.transform.weight.grad, weight.grad.numpy(), "transform", slack=1e-7)
    gradients = official_gradients(model)
    assert gradients.keys() == {name for name in student.w if not name.startswith(TRANSFORM)}
    for name, grad in gradients.items():
        want = student.w[name].grad
        want = torch.zeros_like(student.w[name]) if want is None else want
        assert_gradient(grad, want.numpy(), name, slack=1e-7)
