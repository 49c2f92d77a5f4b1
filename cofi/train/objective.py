"""The loss of a step: labels or distillation, and the Lagrangian penalty while pruning (paper, section 3)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from cofi.data.batches import TaskBatch
from cofi.distill import LayerDistillation, prediction_loss, repeated_layers
from cofi.masks import Constraint, Gates, Lagrangian, Masks, SparsityRamp, SparsityTarget, expected_sparsity
from cofi.models import CompactModel, CompactOutput
from cofi.models.packed import sent
from cofi.train.config import TrainConfig
from cofi.train.distributed import ALONE, World
from cofi.train.randomness import counter_state, step_random
from cofi.train.teacher import Target, Teacher


@dataclass
class StepLoss:
    """Total loss of a step and its parts, all on the device, read by the host only when they are logged."""

    total: Tensor
    parts: dict[str, Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepInputs:
    """What changes from step to step besides the batch, on the device: a captured step reads it there at every replay.

    gates, dropout: int64 (2,) counter states; aim: share of the cost to be removed, 0-dim fp32, None outside pruning
    """

    gates: Tensor
    dropout: Tensor
    aim: Tensor | None


@dataclass
class Student:
    """What a phase trains. `gates`, `lagrangian` and `ramp` belong to pruning, `distiller` to layer distillation.

    compute_dtype: what the model computes in, its parameters staying fp32 for the optimizer; None for their own
    constraint:    what the gates are held to; None is the paper's, an expected sparsity of what the ramp ends at
    before_step:   called with the number of each step before it is taken, from 0 in a phase
    """

    model: CompactModel
    distiller: LayerDistillation | None = None
    gates: Gates | None = None
    lagrangian: Lagrangian | None = None
    ramp: SparsityRamp | None = None
    compute_dtype: torch.dtype | None = None
    constraint: Constraint | None = None
    before_step: Callable[[int], None] | None = None

    @property
    def held_to(self) -> Constraint:
        """The constraint of a student that is being pruned."""
        assert self.gates is not None and self.ramp is not None
        return self.constraint or Constraint(SparsityTarget(self.gates.shape, self.ramp.target))

    def aim(self, step: int) -> dict[str, float]:
        """What pruning step `step` aims at, to log; empty outside pruning."""
        return {} if self.ramp is None else self.held_to.aim(self.ramp(step))

    def __call__(self, **inputs: Any) -> CompactOutput:
        """The model's output, differentiable in its parameters."""
        return cast("CompactOutput", self.model(**inputs, compute_dtype=self.compute_dtype))

    def modules(self) -> list[torch.nn.Module]:
        return [self.model] + ([self.distiller] if self.distiller is not None else [])

    def live_layers(self, masks: Masks | None) -> Tensor:
        """bool (L,): layers whose attention or FFN is there."""
        if masks is not None:
            return masks.live_layers(len(self.model.layers))
        layout, device = self.model.config.layout(), self.model.device
        kept = zip(layout.mha, layout.ffn, strict=True)  # filled on the device: a copy would break a graph's capture
        return torch.stack([torch.full((), mha or ffn, device=device) for mha, ffn in kept])


def repeated_states(live: Tensor) -> tuple[int, ...] | Tensor:
    """`repeated_layers` of live (L,) bool; on the CPU, where it costs nothing to know, as integers."""
    source = repeated_layers(live)
    return tuple(source.tolist()) if source.device.type == "cpu" else source


class Objective:
    """The loss of one phase as a function of batch and step; of several processes each has a part, and these add up."""

    def __init__(
        self, phase: str, task_kind: str, config: TrainConfig, teacher: Teacher | None, world: World = ALONE
    ) -> None:
        self.phase = phase
        self.task_kind = task_kind
        self.config = config
        self.teacher = teacher
        self.world = world

    def __call__(self, student: Student, batch: TaskBatch, step: int) -> StepLoss:
        inputs = self.inputs(student, step, batch.packed.input_ids.device)
        target = None if self.teacher is None else self.teacher(batch)
        loss = self.loss(student, batch, inputs, target, step_random(self.config.seed, f"{self.phase}/matching", step))
        loss.parts.update(student.aim(step))
        return loss

    def inputs(self, student: Student, step: int, device: torch.device) -> StepInputs:
        """The inputs of step `step`: the only values of a step that come from the host, with its batch."""
        gates, dropout = (
            counter_state(self.config.seed, f"{self.phase}/{stream}", step, device)
            for stream in ("gates", self.world.stream("dropout"))
        )
        aim = None if student.ramp is None else sent(torch.tensor(student.ramp(step)), device)
        return StepInputs(gates, dropout, aim)

    def loss(
        self, student: Student, batch: TaskBatch, inputs: StepInputs, target: Target | None, rng: random.Random
    ) -> StepLoss:
        """The loss of a step. Reads nothing of the device on the host and brings nothing there."""
        masks = None if student.gates is None else student.gates.sample(inputs.gates)
        output = student(
            batch=batch.packed,
            masks=masks,
            output_hidden_states=student.distiller is not None,
            dropout_state=inputs.dropout,
            **(batch.labels if target is None else {}),
        )
        loss = self._fit(student, batch, output, target, masks, rng)
        if student.lagrangian is not None:
            self._add_penalty(student, loss, inputs)
        elif student.gates is not None:
            loss.parts["expected_sparsity"] = expected_sparsity(student.gates).detach()
        return loss

    def _fit(
        self,
        student: Student,
        batch: TaskBatch,
        output: CompactOutput,
        target: Target | None,
        masks: Masks | None,
        rng: random.Random,
    ) -> StepLoss:
        if target is None:
            assert output.loss is not None
            loss = batch.share.predictions * output.loss
            return StepLoss(loss, {"prediction_loss": loss.detach()})
        prediction = batch.share.predictions * prediction_loss(
            self.task_kind,
            output,
            target,
            temperature=self.config.distill_temperature,
            cu_seqlens=batch.packed.bounds,
            max_seqlen=batch.packed.max_seqlen,
            predicted=batch.predicted,
        )
        fit = StepLoss(self.config.prediction_weight * prediction, {"prediction_loss": prediction.detach()})
        if student.distiller is not None:
            assert output.hidden_states is not None
            live = student.live_layers(masks)
            layer, _ = student.distiller(
                target.hidden_states,
                output.hidden_states[1:],
                live,
                rng,
                repeated_states(live),
                batch.packed.n_valid_tokens,
                batch.share.tokens,
                self.world.total,
            )
            fit.total = fit.total + self.config.layer_weight * layer
            fit.parts["layer_loss"] = layer.detach()
        return fit

    def _add_penalty(self, student: Student, loss: StepLoss, inputs: StepInputs) -> None:
        assert student.gates is not None and student.lagrangian is not None and inputs.aim is not None
        removed, facts = student.held_to.reduction(student.gates)
        penalty = student.lagrangian(removed, inputs.aim)
        loss.total = loss.total + float(self.world.is_main) * penalty  # it is of no process's share: one counts it
        loss.parts.update(
            facts,
            lagrangian_loss=penalty.detach(),
            lambda_1=student.lagrangian.lambda_1.detach(),
            lambda_2=student.lagrangian.lambda_2.detach(),
        )
