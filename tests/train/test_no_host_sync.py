"""A training step reads no device value on the host and copies nothing to the device: it can be captured in a graph.

The step runs on the device "meta", which like a GPU is not the host but holds no values: `item`, `tolist`, a branch on
a tensor or a boolean index cannot work there. Two modes watch for what would be silently possible.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cofi.data.batches import TaskBatch
from cofi.distill import STRATEGIES, LayerDistillation
from cofi.masks import (
    COUNTS,
    TARGET_UNITS,
    Constraint,
    Gates,
    Lagrangian,
    SparsityRamp,
    SparsityTarget,
    SpeedupTarget,
)
from cofi.models import CompactConfig, CompactModel
from cofi.models.packed import PackedBatch
from cofi.train.config import TrainConfig
from cofi.train.graph import padded
from cofi.train.objective import Objective, Student
from cofi.train.teacher import Teacher
from tests.masks.test_latency import latency_model
from tests.models.tiny import tiny_config

DEVICE = torch.device("meta")
LENGTHS = (4, 7, 1)
HEADS: dict[str, dict[str, Any]] = {
    "classification": {"head": "classification", "num_labels": 3, "problem_type": "classification"},
    "regression": {"head": "classification", "num_labels": 1, "problem_type": "regression"},
    "token_classification": {"head": "token_classification", "num_labels": 3},
    "question_answering": {"head": "question_answering"},
    "embedding": {"head": "embedding", "pooler": "none"},
}
READS = ("_local_scalar_dense", "nonzero", "masked_select", "item", "equal", "is_nonzero", "unique", "_unique2")


class NoNewTensors(TorchFunctionMode):
    """Fails where a tensor is made of numbers that the host holds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{func} copies from the host"
        return func(*args, **(kwargs or {}))


class NoSync(TorchDispatchMode):
    """Fails on an operator whose result the host waits for, and on data that goes from the host to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        assert name not in READS, f"{func} waits for the device"
        if name.startswith("index"):
            indices = [t for t in tree_leaves(args[1:]) if isinstance(t, Tensor)]
            assert not any(t.dtype in (torch.bool, torch.uint8) for t in indices), f"{func} takes a boolean index"
        result = func(*args, **kwargs)
        devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = {t.device.type for t in tree_leaves(result) if isinstance(t, Tensor)}
        assert not ("cpu" in devices and "meta" in devices | made), f"{func} copies from the host"
        return result


@contextlib.contextmanager
def watch() -> Iterator[None]:
    with NoSync(), NoNewTensors():
        yield


def batch_of(kind: str) -> TaskBatch:
    n_tokens, bounds = sum(LENGTHS), torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    flat = torch.zeros(n_tokens, dtype=torch.int64)
    packed = PackedBatch(
        input_ids=flat, token_type_ids=flat, position_ids=flat, cu_seqlens=bounds, max_seqlen=max(LENGTHS)
    )
    rows = torch.zeros(len(LENGTHS), dtype=torch.int64, device=DEVICE)
    labels = {"labels": rows.float() if kind == "regression" else rows}
    if kind == "embedding":
        labels = {"labels": torch.zeros(len(LENGTHS), 24, device=DEVICE)}
    if kind == "question_answering":
        labels = {"start_positions": rows, "end_positions": rows}
    of_tokens = kind == "token_classification"
    if of_tokens:
        labels = {"labels": torch.zeros(n_tokens, dtype=torch.int64, device=DEVICE)}
    return TaskBatch(packed.to(DEVICE), labels, tuple(range(len(LENGTHS))), of_tokens=of_tokens)


def model_of(kind: str, **changes: Any) -> CompactModel:
    config: CompactConfig = tiny_config(
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, **HEADS[kind], **changes
    )
    return CompactModel(config).to(DEVICE)  # type: ignore[arg-type]


def pruning_student(kind: str, strategy: str, constraint: Constraint | None = None) -> Student:
    model = model_of(kind)
    return Student(
        model.train(),
        LayerDistillation(24, 24, 2, 2, strategy).to(DEVICE),
        Gates(model.config.shape(), "all", seed=0).to(DEVICE),
        Lagrangian().to(DEVICE),
        SparsityRamp(0.5, warmup_steps=10),
        constraint=None if constraint is None else constraint.to(DEVICE),
    )


def watched_step(objective: Objective, student: Student, kind: str, *, pad: bool = False) -> None:
    """Inputs are brought to the device first; then teacher, loss, backward and clipping run under watch."""
    batch = padded(batch_of(kind), 40) if pad else batch_of(kind)
    inputs = objective.inputs(student, 3, DEVICE)
    with watch():
        target = None if objective.teacher is None else objective.teacher(batch)
        loss = objective.loss(student, batch, inputs, target, random.Random(0))
        loss.total.backward()
        weights = [p for module in student.modules() for p in module.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(weights, 1.0)
        if student.gates is not None:
            student.gates.clamp_()
    assert all(p.grad is not None for p in weights)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pruning_with_every_matching_strategy(strategy):
    teacher = Teacher(model_of("classification").eval(), (0, 1))
    objective = Objective("prune", "classification", TrainConfig(), teacher)
    watched_step(objective, pruning_student("classification", strategy), "classification")


@pytest.mark.parametrize("pad", [False, True], ids=["as it is", "padded"])
@pytest.mark.parametrize("kind", HEADS)
def test_pruning_of_every_kind_of_task(kind, pad):
    objective = Objective("prune", kind, TrainConfig(), Teacher(model_of(kind).eval(), (0, 1)))
    watched_step(objective, pruning_student(kind, "nearest"), kind, pad=pad)


class Casts(TorchDispatchMode):
    """Keeps what is cast from one dtype to another."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") not in (None, args[0].dtype):
            self.tensors.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", HEADS)
def test_in_bf16_the_kernels_take_the_masters_and_nothing_large_is_cast(kind):
    student, teacher = pruning_student(kind, "nearest"), model_of(kind).eval().to(torch.bfloat16)
    student.compute_dtype = torch.bfloat16
    with Casts() as casts:
        watched_step(Objective("prune", kind, TrainConfig(), Teacher(teacher, (0, 1))), student, kind)
    named = dict(student.model.named_parameters())
    cast = {name for name, p in named.items() if any(p is t for t in casts.tensors)}
    assert cast == {name for name in named if not name.startswith(("embeddings.", "layers."))}  # the heads'
    assert all(p.grad.dtype == torch.float32 for p in named.values())


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("unit", TARGET_UNITS)
def test_pruning_towards_every_target(unit, counts):
    shape = model_of("classification").config.shape()
    targets = {"sparsity": SparsityTarget(shape, 0.5), "speedup": SpeedupTarget(latency_model(shape), 2.0)}
    student = pruning_student("classification", "nearest", Constraint(targets[unit], counts))
    teacher = Teacher(model_of("classification").eval(), (0, 1))
    watched_step(Objective("prune", "classification", TrainConfig(), teacher), student, "classification")
    assert student.gates is not None and student.gates.loga.grad is not None


@pytest.mark.parametrize("pad", [False, True], ids=["as it is", "padded"])
@pytest.mark.parametrize("kind", HEADS)
def test_training_on_labels(kind, pad):
    watched_step(Objective("teacher", kind, TrainConfig(), None), Student(model_of(kind).train()), kind, pad=pad)


def test_finetuning_a_model_without_a_layer():
    removed = {0: {"num_attention_heads": 0, "intermediate_size": 0}}
    model = model_of("classification", per_layer_config=removed, head_dim=6)
    student = Student(model.train(), LayerDistillation(24, 24, 2, 2).to(DEVICE))
    objective = Objective(
        "finetune", "classification", TrainConfig(), Teacher(model_of("classification").eval(), (0, 1))
    )
    watched_step(objective, student, "classification")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x, mask: x[mask], "boolean index"),
        (lambda x, mask: x.nonzero(), "waits for the device"),
        (lambda x, mask: x + torch.ones(3).to(DEVICE), "copies from the host"),
        (lambda x, mask: x + torch.tensor([1.0, 2.0, 3.0], device=DEVICE), "copies from the host"),
    ],
    ids=["boolean index", "nonzero", "copy", "new tensor"],
)
def test_the_watch_sees_what_would_stop_a_gpu(step, message):
    x = torch.zeros(3, device=DEVICE)
    with pytest.raises(AssertionError, match=message), watch():
        step(x, x > 0)


@pytest.mark.parametrize("step", [Tensor.item, Tensor.tolist, bool], ids=["item", "tolist", "branch"])
def test_meta_tensors_have_no_values(step):
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), watch():
        step(torch.zeros(1, device=DEVICE))
