"""A pruning step with random weights: student, teacher, gates at a live fraction, optimizers, one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.gpu.bench import Bench
from cofi.data.batches import TaskBatch
from cofi.data.split import TokenizedSplit
from cofi.distill import LayerDistillation
from cofi.masks import Gates, Lagrangian, SparsityRamp
from cofi.models import CompactConfig, CompactModel
from cofi.models.packed import from_lists
from cofi.train.config import TrainConfig
from cofi.train.graph import Capture, GraphedSteps, Replay
from cofi.train.objective import Objective, StepLoss, Student
from cofi.train.optim import PhaseOptimizers, linear_schedule, weight_optimizer
from cofi.train.randomness import step_random
from cofi.train.teacher import CachedTeacher, Target, Teacher

OPEN, SHUT = 4.6, -4.6  # log-odds at the ends of their range: a sample is off or on but once in a thousand


class KeptTeacher(Teacher):
    """Outputs that are already there, as a cache gives them."""

    needs_host = True

    def __init__(self, teacher: Teacher, batch: TaskBatch) -> None:
        super().__init__(teacher.model, teacher.layers)
        self._kept = teacher(batch)

    def __call__(self, batch: TaskBatch) -> Target:
        return self._kept


@dataclass
class Training:
    student: Student
    objective: Objective
    optimizers: PhaseOptimizers
    batch: TaskBatch

    def step(self) -> Callable[[], StepLoss]:
        """Loss, backward and update on fixed memory: what a graph captures."""
        inputs = self.objective.inputs(self.student, 1, self.batch.packed.input_ids.device)
        teacher = self.objective.teacher
        assert teacher is not None
        kept = teacher(self.batch) if teacher.needs_host else None

        def run() -> StepLoss:
            self.clear()
            target = teacher(self.batch) if kept is None else kept
            loss = self.objective.loss(self.student, self.batch, inputs, target, step_random(0, "unused", 0))
            loss.total.backward()
            self.optimizers.update()
            return loss

        return run

    def clear(self) -> None:
        """Drop the gradients that a capture left if it failed after the backward: nothing ever computed them."""
        self.optimizers.zero_grad()

    def graphed(
        self, limit: int, say: Callable[[str], None] = lambda text: None, capture: Capture | None = None
    ) -> GraphedSteps:
        return GraphedSteps(self.student, self.objective, self.optimizers, say, limit=limit, capture=capture)


def run_again(run: Callable[[], None]) -> Replay:
    """A capture for a CPU, to try the program there: a replay computes the step anew, on the memory of the first."""
    return run


def batch_of(bench: Bench, n_sequences: int, seqlen: int, seed: int = 0) -> TaskBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, bench.sizes.vocabulary, (n_sequences, seqlen), generator=generator).tolist()
    labels = torch.randint(0, 3, (n_sequences,), generator=generator)
    return TaskBatch(from_lists(ids), {"labels": labels}, tuple(range(n_sequences))).to(bench.device)


def model_of(bench: Bench, dropout: float) -> CompactModel:
    s = bench.sizes
    config = {
        "vocab_size": s.vocabulary,
        "hidden_size": s.hidden,
        "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads,
        "head_dim": s.head_dim,
        "intermediate_size": s.intermediate,
        "head": "classification",
        "num_labels": 3,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    model = CompactModel(CompactConfig.from_dict(config))
    return model.to(bench.device)  # type: ignore[arg-type]  # transformers annotates the method away


def gates_of(bench: Bench, model: CompactModel, live: float) -> Gates:
    """Gates that keep about this share of heads and intermediate dims, and everything else."""
    gates = Gates(
        model.config.shape(), "all", init_means=dict.fromkeys(("head", "int", "hidden", "mha", "ffn"), OPEN), seed=0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for kind in ("head", "int"):
            loga = gates.views()[kind]
            loga.copy_(torch.where(torch.rand(loga.shape, generator=generator) < live, OPEN, SHUT))
    return gates.to(bench.device)


def training(
    bench: Bench,
    live: float = 1.0,
    *,
    dropout: float = 0.1,
    cached: bool = False,
    split: TokenizedSplit | None = None,
    n_sequences: int | None = None,
    precision: torch.dtype | None = None,
    gates_rate: float = 0.01,
) -> Training:
    """cached: the teacher's outputs are kept, for the rows of `split` as cofi.train keeps them, or else for one batch.
    precision: what models compute in, the benchmark's by default; fp32 for the reference run.
    gates_rate: learning rate of the gates; with 0 the live fraction stays what it is however many steps are taken
    """
    torch.manual_seed(0)
    s, dtype = bench.sizes, precision or bench.sizes.dtype
    model, teacher = model_of(bench, dropout).train(), model_of(bench, dropout).eval().to(dtype)
    model.embeddings.requires_grad_(False)
    distiller = LayerDistillation(s.hidden, s.hidden, s.n_layers, s.n_layers, "nearest", s.n_matched).to(bench.device)
    student = Student(
        model,
        distiller,
        gates_of(bench, model, live),
        Lagrangian().to(bench.device),
        SparsityRamp(0.95, warmup_steps=1000),
        None if dtype == torch.float32 else dtype,
    )
    weights = weight_optimizer(student.modules(), 2e-5, 0.0)
    schedule = linear_schedule(weights, 10_000, 0.0, True)
    optimizers = PhaseOptimizers(weights, schedule, 1.0, student.gates, student.lagrangian, gates_rate)
    batch = batch_of(bench, n_sequences or s.n_sequences, s.seqlen)
    outputs = Teacher(teacher, distiller.strategy.spaced)
    if cached:
        outputs = KeptTeacher(outputs, batch) if split is None else CachedTeacher(teacher, outputs.layers, split)
    return Training(student, Objective("prune", "classification", TrainConfig(), outputs), optimizers, batch)
