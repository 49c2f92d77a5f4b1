"""Recorded steps. Without a GPU the recorder is a stand-in that runs the step again on the memory it was made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cofi.data.batches import TaskBatch
from cofi.distill import LayerDistillation
from cofi.masks import Gates, Lagrangian, SparsityRamp
from cofi.models.packed import from_lists
from cofi.train.config import TrainConfig
from cofi.train.graph import GraphedSteps, padded, padded_target
from cofi.train.objective import Objective, Student
from cofi.train.optim import PhaseOptimizers, linear_schedule, weight_optimizer
from cofi.train.teacher import Teacher
from tests.models.tiny import model_of

STEPS = 7
HEAD_DIM = 32  # that the attention kernels take, where there is a GPU


class HostTeacher(Teacher):
    """Like a cached teacher: called outside the recorded step."""

    needs_host = True


def batches(device: str) -> list[TaskBatch]:
    """Batches of two forms in turn, never the same tokens twice."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for step in range(STEPS):
        lengths = (5, 3) if step % 2 else (6, 1, 2)
        ids = [torch.randint(5, 97, (n,), generator=generator).tolist() for n in lengths]
        labels = {"labels": torch.arange(len(lengths), device=device)}
        found.append(TaskBatch(from_lists(ids).to(device), labels, tuple(range(len(lengths)))))
    return found


def parts_of(
    device: str, teacher_type: type[Teacher] | None, strategy: str
) -> tuple[Student, Objective, PhaseOptimizers]:
    torch.manual_seed(3)
    changes: dict[str, Any] = {"head": "classification", "num_labels": 3, "hidden_dropout_prob": 0.1}
    changes["head_dim"] = HEAD_DIM
    model, teacher = model_of(**changes).to(device), model_of(**changes).to(device)
    student = Student(model.train())
    if teacher_type is not None:
        student.distiller = LayerDistillation(24, 24, 2, 2, strategy).to(device)
        student.gates = Gates(model.config.shape(), "all", init_means="sheared", seed=0).to(device)
        student.lagrangian, student.ramp = Lagrangian().to(device), SparsityRamp(0.5, warmup_steps=4)
    weights = weight_optimizer(student.modules(), 1e-3, 0.01)
    schedule = linear_schedule(weights, STEPS, 0.3, True)
    optimizers = PhaseOptimizers(weights, schedule, 1.0, student.gates, student.lagrangian, 0.1)
    kept = None if teacher_type is None else teacher_type(teacher.eval(), (0, 1))
    return student, Objective("prune", "classification", TrainConfig(), kept), optimizers


def run_again(run: Callable[[], None]) -> Callable[[], None]:
    return run


def trained(steps: Callable[..., Any], device: str, student: Student) -> tuple[list[float], list[torch.Tensor]]:
    losses = [steps(batch, step).total.item() for step, batch in enumerate(batches(device))]
    modules = [*student.modules(), *([student.gates, student.lagrangian] if student.gates is not None else [])]
    return losses, [p.detach().clone() for module in modules for p in module.parameters()]


@pytest.mark.parametrize("teacher", [Teacher, HostTeacher, None], ids=["computed", "cached", "labels"])
def test_recorded_steps_are_the_eager_ones(device, teacher):
    student, objective, optimizers = parts_of(device, teacher, "nearest")

    want = trained(GraphedSteps(student, objective, optimizers, str, limit=0, capture=pytest.fail), device, student)
    rate = optimizers.learning_rate
    student, objective, optimizers = parts_of(device, teacher, "nearest")
    capture = None if device == "cuda" else run_again
    steps = GraphedSteps(student, objective, optimizers, pytest.fail, capture=capture)
    got = trained(steps, device, student)
    assert len(steps._captured) == 2
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert optimizers.learning_rate == rate


def weight_gradients(student: Student) -> list[torch.Tensor]:
    weights = [p for module in student.modules() for p in module.parameters()]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
    for p in weights:
        p.grad = None
    return grads


def labels_of_tokens(n_tokens: int) -> torch.Tensor:
    """Some of three classes, some of none."""
    labels = torch.arange(n_tokens) % 5 - 2
    return labels.where(labels >= 0, -100)


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("classification", {"num_labels": 3}),
    "regression": ("classification", {"num_labels": 1, "problem_type": "regression"}),
    "token_classification": ("token_classification", {"num_labels": 3}),
    "question_answering": ("question_answering", {}),
    "embedding": ("embedding", {}),
}


@pytest.mark.parametrize("lengths", [(5, 3, 9), (30, 2)], ids=["padding", "none needed"])
@pytest.mark.parametrize("taught", [True, False], ids=["teacher", "labels"])
@pytest.mark.parametrize("kind", TASKS)
def test_padding_changes_neither_loss_nor_gradients(device, kind, taught, lengths):
    head, changes = TASKS[kind]
    model, teacher = (model_of(head=head, head_dim=HEAD_DIM, **changes).to(device) for _ in range(2))
    student = Student(model, LayerDistillation(24, 24, 2, 2, "nearest").to(device) if taught else None)
    kept = Teacher(teacher, (0, 1)) if taught else None
    objective = Objective("distil", kind, TrainConfig(), kept)
    rows = torch.arange(len(lengths), device=device) % 2
    labels = {"labels": rows.float() if kind == "regression" else rows}
    labels = {"start_positions": rows, "end_positions": rows} if kind == "question_answering" else labels
    labels = {"labels": torch.ones(len(lengths), 24, device=device)} if kind == "embedding" else labels
    of_tokens = kind == "token_classification"
    labels = {"labels": labels_of_tokens(sum(lengths)).to(device)} if of_tokens else labels
    ids = [torch.randint(5, 97, (n,)).tolist() for n in lengths]
    batch = TaskBatch(from_lists(ids).to(device), labels, tuple(range(len(lengths))), of_tokens=of_tokens)
    found = []
    for each in (batch, padded(batch, 40)):
        target = None if kept is None else padded_target(kept(batch), each.packed.n_tokens, teacher.head)
        loss = objective.loss(student, each, objective.inputs(student, 1, each.packed.input_ids.device), target, None)
        loss.total.backward()
        found.append((loss.total.detach(), weight_gradients(student)))
    assert padded(batch, 40).packed.n_tokens == 32 and padded(batch, 40).packed.cu_seqlens[-1] == 32
    torch.testing.assert_close(found[0], found[1], rtol=2e-4, atol=1e-6)


def test_forms_beyond_the_limit_stay_eager_and_that_is_said_once(device):
    student, objective, optimizers = parts_of(device, Teacher, "nearest")
    said: list[str] = []
    capture = None if device == "cuda" else run_again
    steps = GraphedSteps(student, objective, optimizers, said.append, limit=1, capture=capture)
    trained(steps, device, student)
    assert len(steps._captured) == 1
    assert said == ["Steps with 32 tokens and others run without a CUDA graph: there are already 1 graphs."]


@pytest.mark.parametrize(("strategy", "said"), [("random_in_order", 1), ("random_window", 1), ("fixed", 0)])
def test_matching_that_draws_on_the_host_stays_eager(device, strategy, said):
    student, objective, optimizers = parts_of(device, Teacher, "nearest")
    student.distiller = LayerDistillation(24, 24, 12, 2, strategy)
    heard: list[str] = []
    steps = GraphedSteps(student, objective, optimizers, heard.append)
    steps._seen.add((8, 2, 5))
    assert [steps._may_capture((8, 2, 5)) for _ in range(3)] == [not said] * 3
    assert len(heard) == said and all("draws teacher layers on the host" in line for line in heard)


def test_logged_parts_are_those_of_the_step(device):
    student, objective, optimizers = parts_of(device, Teacher, "nearest")
    capture = None if device == "cuda" else run_again
    steps = GraphedSteps(student, objective, optimizers, pytest.fail, capture=capture)
    targets = [steps(batch, step).parts["target_sparsity"] for step, batch in enumerate(batches(device))]
    assert targets == [SparsityRamp(0.5, warmup_steps=4)(step) for step in range(STEPS)]


def test_a_lower_precision_trains_the_same_weights_alike():
    """bf16 keeps 8 bits: losses of 7 steps agree to that, weights and their gradients stay fp32."""
    losses = []
    for dtype in (None, torch.bfloat16):
        student, objective, optimizers = parts_of("cpu", Teacher, "nearest")
        student.compute_dtype = dtype
        if dtype is not None:
            objective.teacher.model.to(dtype)
        steps = GraphedSteps(student, objective, optimizers, pytest.fail, capture=run_again)
        losses.append(torch.tensor(trained(steps, "cpu", student)[0]))
        assert all(p.dtype == torch.float32 for p in student.model.parameters())
    assert not torch.equal(*losses)
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.02)
