"""The loss of a step: labels or distillation, and the Lagrangian penalty while pruning (paper, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cofi.data.batches import TaskBatch
from cofi.distill import LayerDistillation, prediction_loss, repeated_layers
from cofi.masks import Gates, Lagrangian, Masks, SparsityRamp, expected_sparsity
from cofi.models import CompactModel, CompactOutput
from cofi.train.config import TrainConfig
from cofi.train.randomness import counter_state, step_random
from cofi.train.teacher import Teacher


@dataclass
class StepLoss:
    """Total loss of a step and its parts, all on the device, read by the host only when they are logged."""

    total: Tensor
    parts: dict[str, Tensor | float] = field(default_factory=dict)


@dataclass
class Student:
    """What a phase trains. `gates`, `lagrangian` and `ramp` belong to pruning, `distiller` to layer distillation."""

    model: CompactModel
    distiller: LayerDistillation | None = None
    gates: Gates | None = None
    lagrangian: Lagrangian | None = None
    ramp: SparsityRamp | None = None

    def modules(self) -> list[torch.nn.Module]:
        return [self.model] + ([self.distiller] if self.distiller is not None else [])

    def live_layers(self, masks: Masks | None) -> Tensor:
        """bool (L,): layers whose attention or FFN is there."""
        if masks is not None:
            return masks.live_layers(len(self.model.layers))
        layout = self.model.config.layout()
        kept = [mha or ffn for mha, ffn in zip(layout.mha, layout.ffn, strict=True)]
        return torch.tensor(kept, device=self.model.device)


class Objective:
    """The loss of one phase as a function of batch and step."""

    def __init__(self, phase: str, task_kind: str, config: TrainConfig, teacher: Teacher | None) -> None:
        self.phase = phase
        self.task_kind = task_kind
        self.config = config
        self.teacher = teacher

    def __call__(self, student: Student, batch: TaskBatch, step: int) -> StepLoss:
        device = batch.packed.input_ids.device
        masks = None
        if student.gates is not None:
            masks = student.gates.sample(counter_state(self.config.seed, f"{self.phase}/gates", step, device))
        output = student.model(
            batch=batch.packed,
            masks=masks,
            output_hidden_states=student.distiller is not None,
            dropout_state=counter_state(self.config.seed, f"{self.phase}/dropout", step, device),
            **(batch.labels if self.teacher is None else {}),
        )
        loss = self._fit(student, batch, output, masks, step)
        if student.lagrangian is not None:
            self._add_penalty(student, loss, step)
        return loss

    def _fit(
        self, student: Student, batch: TaskBatch, output: CompactOutput, masks: Masks | None, step: int
    ) -> StepLoss:
        if self.teacher is None:
            assert output.loss is not None
            return StepLoss(output.loss, {"prediction_loss": output.loss.detach()})
        target = self.teacher(batch)
        prediction = prediction_loss(
            self.task_kind,
            output,
            target,
            temperature=self.config.distill_temperature,
            cu_seqlens=batch.packed.cu_seqlens,
            max_seqlen=batch.packed.max_seqlen,
        )
        loss = StepLoss(self.config.prediction_weight * prediction, {"prediction_loss": prediction.detach()})
        if student.distiller is not None:
            assert output.hidden_states is not None
            live = student.live_layers(masks)
            layer, _ = student.distiller(
                target.hidden_states,
                output.hidden_states[1:],
                live,
                step_random(self.config.seed, f"{self.phase}/matching", step),
                repeated_layers(live),
            )
            loss.total = loss.total + self.config.layer_weight * layer
            loss.parts["layer_loss"] = layer.detach()
        return loss

    def _add_penalty(self, student: Student, loss: StepLoss, step: int) -> None:
        assert student.gates is not None and student.lagrangian is not None and student.ramp is not None
        sparsity = expected_sparsity(student.gates)
        target = student.ramp(step)
        penalty = student.lagrangian(sparsity, target)
        loss.total = loss.total + penalty
        loss.parts.update(
            lagrangian_loss=penalty.detach(),
            expected_sparsity=sparsity.detach(),
            target_sparsity=target,
            lambda_1=student.lagrangian.lambda_1.detach(),
            lambda_2=student.lagrangian.lambda_2.detach(),
        )
