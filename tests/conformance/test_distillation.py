"""Layer and prediction distillation against the official trainer.

Its versions are our strategies: 3 nearest, 4 nearest_in_order, 5 random_in_order, 6 random_window. What it computes for
a given alignment is right in every run and compared in every run. Its choice of the alignment is not: version 3 asks of
no layer whether it is alive, versions 4 to 6 apply the list of live layers to ranks of the sorted errors. So both its
rule and the intended one are computed here, and its alignment is asked of us where they agree.
"""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cofi.distill import STRATEGIES, LayerDistillation, matched_loss, prediction_loss
from cofi.masks import Masks
from cofi_kernels import layer_match

from .goldens import assert_gradient, load, tensor

STRATEGY_OF_VERSION = {"v3": "nearest", "v4": "nearest_in_order", "v5": "random_in_order", "v6": "random_window"}
RUNS = ["v3_zs", "v3_nozs", "v4_zs", "v4_nozs", "v4_onlymlpz", "v4_onlyone"]
DRAWING = ("v5", "v6")
DRAWN = [f"{version}_seed{seed}" for version in DRAWING for seed in range(3)]


@pytest.fixture(scope="module")
def golden(golden_dir):
    return load(golden_dir, "distill_12layers")


@dataclass
class Run:
    """One official run: its inputs as leaves, the layers it compares and the masks it was given."""

    name: str
    golden: dict = field(repr=False)

    def __post_init__(self) -> None:
        if f"{self.name}__alignment" not in self.golden:
            pytest.skip(f"no run {self.name} in this file")
        self.version, self.case = self.name.split("_")
        self.strategy = STRATEGY_OF_VERSION[self.version]
        self.teacher = tensor(self.golden["teacher_hidden"]).flatten(1, 2)[1:]  # the first is the embeddings' output
        self.hidden = tensor(self.golden["student_hidden"]).requires_grad_()
        self.student = self.hidden.flatten(1, 2)[1:]
        self.weight = tensor(self.golden["W"]).requires_grad_()
        self.bias = tensor(self.golden["b"]).requires_grad_()
        self.alignment = self["alignment"].tolist()

    def __getitem__(self, key: str):
        return self.golden[f"{self.name}__{key}"]

    @property
    def picked(self) -> list[int]:
        """Teacher layers of the run; where they were not drawn, the spaced ones."""
        if f"{self.name}__teacher_layers" in self.golden:
            return self["teacher_layers"].tolist()
        return list(STRATEGIES["nearest"](len(self.teacher), len(self.student)).spaced)

    @property
    def masks(self) -> Masks:
        z_mha, z_ffn = tensor(self.golden["head_layer_z"]), tensor(self.golden["mlp_z"])
        if self.case == "nozs":
            return Masks()
        if self.case == "onlymlpz":
            return Masks(z_ffn=z_ffn)
        if self.case == "onlyone":
            return self._only_one_layer()
        return Masks(z_mha=z_mha, z_ffn=z_ffn)

    def _only_one_layer(self) -> Masks:
        """A single layer with attention, and no FFN. The file does not say which: one for which the official rule
        gives the official alignment."""
        candidates = [Masks(z_mha=z, z_ffn=torch.zeros_like(z)) for z in torch.eye(len(self.student))]
        mse = self.mse().tolist()
        fitting = [masks for masks in candidates if official_rule(mse, masks) == self.alignment]
        assert fitting
        return fitting[-1]

    def mse(self) -> Tensor:
        return layer_match([self.teacher[t] for t in self.picked], list(self.student), self.weight, self.bias)


@pytest.fixture(params=RUNS + DRAWN)
def run(request, golden) -> Run:
    return Run(request.param, golden)


def in_order(rows: list[list[float]], n_layers: int, allowed) -> list[int]:
    """Top down, the best student layer that is below the previous match and `allowed(layer, rank)`."""
    previous, alignment = n_layers, []
    for row in reversed(rows):
        ranked = enumerate(sorted(range(n_layers), key=row.__getitem__))
        previous = next((layer for rank, layer in ranked if layer < previous and allowed(layer, rank)), previous)
        alignment.insert(0, previous)
    return alignment


def official_rule(rows: list[list[float]], masks: Masks) -> list[int]:
    """Versions 4 to 6: existence from z_mha alone, looked up by rank."""
    n_layers = len(rows[0])
    exists = [True] * n_layers if masks.z_mha is None else (masks.z_mha != 0).tolist()
    return in_order(rows, n_layers, lambda layer, rank: exists[rank])


def intended_rule(rows: list[list[float]], masks: Masks) -> list[int]:
    n_layers = len(rows[0])
    live = masks.live_layers(n_layers).tolist()
    return in_order(rows, n_layers, lambda layer, rank: live[layer])


def nearest_rule(rows: list[list[float]], live: list[bool]) -> list[int]:
    return [min((j for j in range(len(row)) if live[j]), key=row.__getitem__) for row in rows]


def expected_alignments(run: Run) -> tuple[list[int], list[int]]:
    """What the official code chooses and what it should."""
    rows, n_layers = run.mse().tolist(), len(run.student)
    if run.version == "v3":
        live = run.masks.live_layers(n_layers).tolist()
        return nearest_rule(rows, [True] * n_layers), nearest_rule(rows, live)
    return official_rule(rows, run.masks), intended_rule(rows, run.masks)


def test_matrix_of_errors(golden):
    run = Run("v3_nozs", golden)
    (expected,) = (array for key, array in golden.items() if key.startswith("mse_matrix_T"))
    torch.testing.assert_close(run.mse().detach(), tensor(expected), rtol=1e-5, atol=1e-6)


def test_loss_and_gradients_of_the_official_alignment(run):
    loss = matched_loss(run.mse(), tensor(run["alignment"]))
    assert loss.item() == pytest.approx(float(run["layer_loss"]), rel=1e-5)
    prediction = classification(tensor(run.golden["student_logits"]), run.golden)
    total = float(run.golden["alpha_ce"]) * prediction + float(run.golden["alpha_layer"]) * loss
    assert total.item() == pytest.approx(float(run["loss"]), rel=1e-5)
    total.backward()
    assert_gradient(run.hidden.grad, run["grad_student_hidden"], "student")
    assert_gradient(run.weight.grad, run["grad_W"], "weight")
    assert_gradient(run.bias.grad, run["grad_b"], "bias")


def test_alignment(run):
    official, intended = expected_alignments(run)
    assert official == run.alignment, "the official rule is not understood"
    strategy = STRATEGIES[run.strategy](len(run.teacher), len(run.student), count=len(run.picked))
    ours = strategy.align(run.mse().detach(), run.masks.live_layers(len(run.student))).tolist()
    assert ours == intended
    if official == intended:
        assert ours == run.alignment


def distiller_of(run: Run) -> LayerDistillation:
    """Ours, given the layers that the run drew: the random strategies then match as nearest_in_order does."""
    strategy = "nearest_in_order" if run.version in DRAWING else run.strategy
    n_picked, n_layers = len(run.picked), len(run.student)
    distiller = LayerDistillation(*run.weight.shape, n_picked, n_layers, strategy, count=n_picked)
    with torch.no_grad():
        distiller.transform.weight.copy_(run.weight)
        distiller.transform.bias.copy_(run.bias)
    return distiller


def test_whole_loss(run):
    """Through LayerDistillation, the way training goes: equal to the official loss where its alignment is right."""
    official, intended = expected_alignments(run)
    distiller = distiller_of(run)
    targets, live = [run.teacher[t] for t in run.picked], run.masks.live_layers(len(run.student))
    layer_loss, alignment = distiller(targets, list(run.student), live, random.Random(0))
    assert alignment.tolist() == intended
    if official != intended:
        matched = zip(targets, intended, strict=True)
        pairs = [(target, run.student[j] @ run.weight.T + run.bias) for target, j in matched]
        expected = sum((state - target).square().mean() for target, state in pairs)
        assert layer_loss.item() == pytest.approx(expected.item(), rel=1e-5)
        return
    logits = tensor(run.golden["student_logits"]).requires_grad_()
    prediction = float(run.golden["alpha_ce"]) * classification(logits, run.golden)
    loss = prediction + float(run.golden["alpha_layer"]) * layer_loss
    loss.backward()
    assert loss.item() == pytest.approx(float(run["loss"]), rel=1e-5)
    assert_gradient(run.hidden.grad, run["grad_student_hidden"], "student")
    assert_gradient(distiller.transform.weight.grad, run["grad_W"], "weight")
    assert_gradient(distiller.transform.bias.grad, run["grad_b"], "bias")
    assert_gradient(logits.grad, run["grad_student_logits"], "logits")


def test_prediction_loss(run):
    logits = tensor(run.golden["student_logits"]).requires_grad_()
    loss = classification(logits, run.golden)
    (float(run.golden["alpha_ce"]) * loss).backward()
    assert loss.item() == pytest.approx(float(run["ce_loss"]), rel=1e-5)
    assert_gradient(logits.grad, run["grad_student_logits"])


def test_prediction_loss_at_every_temperature(golden):
    keys = [key for key in golden if key.startswith("ce_temp_")]
    assert keys
    for key in keys:
        written = key.removeprefix("ce_temp_")
        # the name is rounded: 0.6667 is 2/3
        temperature = 2 / 3 if written == f"{2 / 3:.4f}" else float(written)
        loss = classification(tensor(golden["student_logits"]), golden, temperature)
        assert loss.item() == pytest.approx(float(golden[key]), rel=1e-5)


def classification(student_logits: Tensor, golden, temperature: float | None = None) -> Tensor:
    student = SimpleNamespace(logits=student_logits)
    teacher = SimpleNamespace(logits=tensor(golden["teacher_logits"]))
    temperature = float(golden["temp"]) if temperature is None else temperature
    return prediction_loss("classification", student, teacher, temperature=temperature)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_teacher_layers(name, golden):
    """Our draws are the official ones, but for those whose raised first layer repeats or overtakes the second."""
    run = Run(name, golden)
    official = run["teacher_layers"].tolist()
    strategy = STRATEGIES[run.strategy](len(run.teacher), len(run.student), count=len(official))
    ours = list(strategy.pick_teacher_layers(random.Random(int(run.case.removeprefix("seed")))))
    assert ours == sorted(set(ours))
    if official == sorted(set(official)):
        assert ours == official
