"""A batch in parts: the parts' losses and gradients add up to those of the whole, whatever the task and the parts."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cofi.data.batches import TaskBatch, collate
from cofi.data.split import Ragged, TokenizedSplit
from cofi.distill import LayerDistillation
from cofi.errors import UserError
from cofi.masks import Gates, Lagrangian, SparsityRamp
from cofi.train import teacher as teacher_module
from cofi.train.config import TrainConfig
from cofi.train.distributed import ALONE, Processes, World, launched_world
from cofi.train.objective import Objective, StepLoss, Student
from cofi.train.shares import balanced, take_share
from cofi.train.teacher import Teacher, make_teacher
from cofi.train.teacher_store import Contents
from tests.models.tiny import model_of

LENGTHS = (5, 3, 9, 1, 7, 2)
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("classification", {"num_labels": 3}),
    "regression": ("classification", {"num_labels": 1, "problem_type": "regression"}),
    "token_classification": ("token_classification", {"num_labels": 3}),
    "question_answering": ("question_answering", {}),
    "embedding": ("embedding", {}),
}


class Member(World):
    """One of several processes, on paper: `total` notes its part, or gives the sum that was found before."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.parts: list[Tensor] = []
        self.sum: Tensor | None = None

    def total(self, part: Tensor) -> Tensor:
        self.parts.append(part.clone())
        return part if self.sum is None else self.sum


def members(size: int) -> list[Member]:
    return [Member(rank, size) for rank in range(size)]


def split_of(kind: str) -> TokenizedSplit:
    draw = np.random.default_rng(0)
    ids = Ragged.of([draw.integers(5, 97, n) for n in LENGTHS], np.int32)
    types = Ragged.of([np.zeros(n) for n in LENGTHS], np.int8)
    numbers = np.arange(len(LENGTHS))
    if kind == "question_answering":
        ends = np.array(LENGTHS) - 1
        return TokenizedSplit(ids, types, start_positions=numbers % 2 * ends, end_positions=ends)
    if kind == "token_classification":  # a third of the tokens is not predicted; of the sequence of one none is
        classes = [np.where(np.arange(n) % 3 == 0, -100, np.arange(n) % 2 + n % 2) for n in LENGTHS]
        return TokenizedSplit(ids, types, token_labels=Ragged.of(classes, np.int64))
    if kind == "embedding":
        return TokenizedSplit(ids, types, labels=draw.normal(size=(len(LENGTHS), 24)))
    return TokenizedSplit(ids, types, labels=numbers.astype(np.float32) / 3 if kind == "regression" else numbers % 3)


def student_of(kind: str, taught: bool) -> tuple[Student, Teacher | None]:
    """In fp64, so that what differs is no rounding."""
    torch.manual_seed(1)
    head, changes = TASKS[kind]
    model, teacher = (model_of(head=head, **changes).double() for _ in range(2))
    student = Student(model.train())
    if not taught:
        return student, None
    student.distiller = LayerDistillation(24, 24, 2, 2, "nearest").double()
    student.gates = Gates(model.config.shape(), "all", init_means="sheared", seed=0)
    student.lagrangian, student.ramp = Lagrangian(), SparsityRamp(0.5)
    torch.nn.init.constant_(student.lagrangian.lambda_1, 0.7)
    return student, Teacher(teacher.eval(), (0, 1))


def loss_and_gradients(
    student: Student, teacher: Teacher | None, kind: str, batch: TaskBatch, world: World
) -> tuple[StepLoss, list[Tensor]]:
    objective = Objective("prune", kind, TrainConfig(layer_weight=0.9), teacher, world)
    inputs = objective.inputs(student, 3, torch.device("cpu"))
    target = None if teacher is None else teacher(batch)
    loss = objective.loss(student, batch, inputs, target, random.Random(0))
    modules = [*student.modules(), *([student.gates, student.lagrangian] if student.gates is not None else [])]
    weights = [p for module in modules for p in module.parameters()]
    grads = torch.autograd.grad(loss.total, weights, allow_unused=True)
    return loss, [torch.zeros_like(p) if g is None else g for p, g in zip(weights, grads, strict=True)]


@pytest.mark.parametrize("size", [2, 4, 8], ids=["two", "four", "more than rows"])
@pytest.mark.parametrize("taught", [True, False], ids=["teacher", "labels"])
@pytest.mark.parametrize("kind", TASKS)
def test_shares_add_up_to_the_batch(kind, taught, size):
    split = split_of(kind)
    student, teacher = student_of(kind, taught)
    rows = [4, 0, 2, 1, 5, 3]
    batch = collate(split, rows)
    want, want_grads = loss_and_gradients(student, teacher, kind, batch, ALONE)
    world = members(size)
    shares = [take_share(split, rows, member) for member in world]
    for _ in range(2):  # the second time the matching knows the errors of all
        parts = [
            loss_and_gradients(student, teacher, kind, share, member)
            for member, share in zip(world, shares, strict=True)
        ]
        for member in world:
            member.sum = sum(other.parts[0] for other in world) if taught else None
    torch.testing.assert_close(sum(loss.total for loss, _ in parts), want.total, rtol=1e-9, atol=1e-12)
    for name in ("prediction_loss", "layer_loss")[: 2 if taught else 1]:
        torch.testing.assert_close(sum(loss.parts[name] for loss, _ in parts), want.parts[name], rtol=1e-9, atol=1e-12)
    got = [sum(grads) for grads in zip(*(grads for _, grads in parts), strict=True)]
    assert sum(float(g.abs().sum()) > 0 for g in want_grads) > 20
    for mine, other in zip(got, want_grads, strict=True):  # those of the gates are fp32
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7 if mine.dtype == torch.float32 else 1e-12)


def test_layers_are_matched_by_the_tokens_of_all():
    """Each of two shares alone would match the last teacher layer with another student layer than both together do."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(6, 4)
    near, far = (scale * torch.rand(3, 4, generator=generator) for scale in (0.1, 1.0))
    first = [torch.cat([near, 3 * far]), torch.cat([far, far])]  # layer 0 is nearer in the first half, 1 in all
    distiller = LayerDistillation(4, 4, 1, 2, "nearest")
    live = torch.ones(2, dtype=torch.bool)

    def match(tokens: slice, world: World, share: float) -> int:
        states = [state[tokens] for state in first]
        return int(distiller([target[tokens]], states, live, random.Random(0), share=share, total=world.total)[1])

    world = members(2)
    halves = [slice(0, 3), slice(3, 6)]
    assert match(slice(0, 6), ALONE, 1.0) == 1
    assert [match(half, member, 0.5) for half, member in zip(halves, world, strict=True)] == [0, 1]
    for member in world:
        member.sum = world[0].parts[0] + world[1].parts[0]
    assert [match(half, member, 0.5) for half, member in zip(halves, world, strict=True)] == [1, 1]


def test_gates_are_sampled_alike_and_dropout_is_not():
    split = split_of("classification")
    student, teacher = student_of("classification", True)
    assert teacher is not None and len(split) == len(LENGTHS)
    inputs = [
        Objective("prune", "classification", TrainConfig(), teacher, world).inputs(student, 3, torch.device("cpu"))
        for world in (ALONE, *members(3))
    ]
    assert all(torch.equal(each.gates, inputs[0].gates) for each in inputs)
    states = [tuple(each.dropout.tolist()) for each in inputs]
    assert states[0] == states[1] and len(set(states)) == 3


@pytest.mark.parametrize(
    ("lengths", "size", "want"),
    [
        ([4, 4, 4, 4], 2, [[0, 2], [1, 3]]),
        ([9, 1, 2, 3, 3], 2, [[0], [1, 2, 3, 4]]),
        ([5], 3, [[0], [], []]),
        ([1, 2, 3], 1, [[0, 1, 2]]),
    ],
    ids=["equal", "one long", "too few", "alone"],
)
def test_balanced(lengths, size, want):
    assert balanced(np.array(lengths), size) == want


def test_a_world_of_one_takes_the_batch_as_it_is():
    split = split_of("classification")
    assert take_share(split, [2, 0], ALONE).rows == (2, 0)


def test_a_file_of_teacher_outputs_is_for_one_machine(tmp_path):
    split, (_, teacher) = split_of("classification"), student_of("classification", True)
    world = Member(0, 2)
    world.local_size = 1
    with pytest.raises(UserError, match="--teacher-cache disk needs all processes on one machine"):
        make_teacher(teacher.model, (1,), split, "disk", tmp_path / "kept", world)
    world.local_size = 2
    assert "kept in" in make_teacher(teacher.model, (1,), split, "disk", tmp_path / "kept", world)[1]


def test_memory_is_that_of_all_processes_of_a_machine(monkeypatch):
    split, (_, teacher) = split_of("classification"), student_of("classification", True)
    need = Contents.of(teacher.model, (1,), split, 64).n_bytes()
    monkeypatch.setattr(teacher_module, "free_bytes", lambda device: 2 * need)
    world = Member(0, 3)
    for n_local, fits in ((2, True), (3, False)):
        world.local_size = n_local
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match="--teacher-cache ram does not fit"):
            make_teacher(teacher.model, (1,), split, "ram", world=world)


@pytest.mark.parametrize(
    ("name", "n_gpus", "want"),
    [
        ("auto", 2, "cuda:1"),
        ("cuda", 3, "cuda:1"),
        ("auto", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 1, "--nproc-per-node must be at most the GPUs of this machine, 1, got 2"),
        ("cuda", 0, "--nproc-per-node must be at most the GPUs of this machine, 0, got 2"),
        ("cuda:0", 2, "--device must be auto, cpu or cuda where 2 processes train, got 'cuda:0'"),
    ],
)
def test_each_process_has_a_device_of_its_own(monkeypatch, name, n_gpus, want):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    world = object.__new__(Processes)  # unconnected
    world.rank, world.size, world.local_rank, world.local_size = 1, 2, 1, 2
    with contextlib.nullcontext() if "must" not in want else pytest.raises(UserError, match=want):
        assert world.device_name(name) == want


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "2"}, "RANK must be below WORLD_SIZE"),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK below LOCAL_WORLD_SIZE"),
        ({"RANK": "one"}, "RANK must be a whole number, got 'one'"),
    ],
    ids=["rank", "local rank", "no number"],
)
def test_a_launcher_that_makes_no_sense(monkeypatch, variables, words):
    launcher = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | variables
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        launched_world()


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", None])
def test_no_launcher_is_a_world_of_one(monkeypatch, missing):
    launcher = {"RANK": "0", "WORLD_SIZE": "2" if missing else "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing or "LOCAL_RANK", raising=False)
    assert launched_world() is ALONE


@pytest.mark.parametrize(("device", "made_current"), [("cpu", []), ("cuda", []), ("cuda:1", ["cuda:1"])])
def test_the_device_of_a_run_is_the_current_one(device: str, made_current: list[str], monkeypatch) -> None:
    """Streams and generators that name no device are of the current one."""
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    World().connect(torch.device(device))
    assert chosen == made_current
