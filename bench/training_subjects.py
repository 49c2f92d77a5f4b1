"""The steps that bench.training_step compares: ours, Hugging Face's eager model, the official code's scheme."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from bench.structures import Structure
from cofi.data.batches import collate
from cofi.data.split import Ragged, TokenizedSplit
from cofi.distill import LayerDistillation
from cofi.masks import Gates, Lagrangian, SparsityRamp
from cofi.models import CompactConfig, CompactModel
from cofi.train.config import TrainConfig
from cofi.train.objective import Objective, Student
from cofi.train.optim import ClippingAdamW, PhaseOptimizers, linear_schedule, weight_optimizer
from cofi.train.teacher import CachedTeacher, Teacher

N_LABELS = 2
TEACHER_LAYERS = (2, 5, 8, 11)
LIVE, DEAD = 4.6, -40.0  # loga: soft values close to 1, of which 0.2 % are 0; and 0 whatever the noise
VOCABULARY = 30522
LEARNING_RATE = 2e-5


def split_of(lengths: list[int]) -> TokenizedSplit:
    """Random sentences of these lengths."""
    random = np.random.Generator(np.random.PCG64(0))
    ids = Ragged.of([random.integers(1000, VOCABULARY, n) for n in lengths], np.int32)
    types = Ragged.of([np.zeros(n) for n in lengths], np.int8)
    return TokenizedSplit(ids, types, labels=random.integers(0, N_LABELS, len(lengths)))


@functools.cache
def bert(seed: int) -> CompactModel:
    """BERT-base with random weights; the same one for the same seed."""
    torch.manual_seed(seed)
    config = {"vocab_size": VOCABULARY, "head": "classification", "num_labels": N_LABELS}
    return CompactModel(CompactConfig.from_dict(config))


@functools.cache
def student_and_optimizer() -> tuple[CompactModel, LayerDistillation, ClippingAdamW]:
    """Rows share them: 1.4 GB, and what a step leaves does not change the work of the next."""
    model = bert(1)
    model.embeddings.requires_grad_(False)
    distiller = LayerDistillation(768, 768, 12, 12, "nearest")
    return model, distiller, weight_optimizer([model, distiller], LEARNING_RATE, 0.0)


class FixedGates(Gates):
    """Gates that stand for one structure: after each step loga is what it was, where training would clamp it."""

    def __init__(self, model: CompactModel, structure: Structure) -> None:
        super().__init__(model.config.shape(), "all", seed=0)
        dense = min(structure.heads) == 12
        with torch.no_grad():
            self.loga.fill_(-DEAD if dense else LIVE)  # no unit masked: all exactly 1
            views = self.views()
            views["hidden"][structure.hidden :] = DEAD
            for i, (heads, width) in enumerate(zip(structure.heads, structure.intermediate, strict=True)):
                views["head"][i, heads:] = DEAD
                views["int"][i, width:] = DEAD
                views["mha"][i] = DEAD if heads == 0 else views["mha"][i]
                views["ffn"][i] = DEAD if width == 0 else views["ffn"][i]
        self._start = self.loga.detach().clone()

    @torch.no_grad()
    def clamp_(self) -> None:
        self.loga.copy_(self._start)


class OursStep:
    """A step of the pruning phase as cofi.train runs it, always that of the same step number."""

    def __init__(self, structure: Structure, lengths: list[int], *, cached: bool) -> None:
        model, distiller, weights = student_and_optimizer()
        split = split_of(lengths)
        self.batch = collate(split, range(len(lengths)))
        config = TrainConfig(recipe="default", task="sst2")
        teacher = bert(2).eval().requires_grad_(False)
        source = CachedTeacher(teacher, TEACHER_LAYERS, split) if cached else Teacher(teacher, TEACHER_LAYERS)
        self.student = Student(
            model.train(), distiller, FixedGates(model, structure), Lagrangian(), SparsityRamp(0.95, warmup_steps=10)
        )
        assert self.student.gates is not None
        schedule = linear_schedule(weights, 10**6, 0.0, False)
        self.optimizers = PhaseOptimizers(weights, schedule, 1.0, self.student.gates, self.student.lagrangian, 0.01)
        self.objective = Objective("prune", "classification", config, source)
        self.parts: dict[str, list[float]] = {}

    def run(self) -> None:
        inside: dict[str, float] = {}
        teacher, forward = _timed(self.objective, "teacher", inside), _timed(self.student.model, "forward", inside)
        with teacher, forward, self._part("objective"):
            loss = self.objective(self.student, self.batch, 5)
        with self._part("backward"):
            loss.total.backward()
        with self._part("optimizer"):
            self.optimizers.step()
        for name, seconds in inside.items():
            self.parts.setdefault(name, []).append(seconds)
        rest = self.parts.pop("objective")[-1] - sum(inside.values())
        self.parts.setdefault("gates and losses", []).append(rest)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts.setdefault(name, []).append(time.perf_counter() - start)

    def gradients(self) -> dict[str, Tensor]:
        """The losses of a step and the gradient of every parameter, by name."""
        assert self.student.gates is not None
        loss = self.objective(self.student, self.batch, 5)
        loss.total.backward()
        found = {"loss": loss.total.detach()[None]}
        for module in (*self.student.modules(), self.student.gates):
            kind = type(module).__name__
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    found[f"{kind}.{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = None
        return found


def _timed(owner: object, name: str, into: dict[str, float]) -> AbstractContextManager[object]:
    """Seconds of a call of this attribute in the block."""
    call = getattr(owner, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        into[name] = time.perf_counter() - start
        return result

    return mock.patch.object(owner, name, run)


@functools.cache
def hf_bert(seed: int, attention: str = "eager") -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig.from_dict({"vocab_size": VOCABULARY, "num_labels": N_LABELS})
    config._attn_implementation = attention
    return BertForSequenceClassification(config)


def padded(lengths: list[int]) -> dict[str, Tensor]:
    """Inputs for Hugging Face's model, as long as the longest sentence."""
    torch.manual_seed(0)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1000, VOCABULARY, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(len(lengths), dtype=torch.int64)}


def hf_step(lengths: list[int]) -> Callable[[], None]:
    """The unit: forward and backward, gradients of embeddings too, no optimizer."""
    model, inputs = hf_bert(1).train(), padded(lengths)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(**inputs).loss.backward()

    return run


def official_step(lengths: list[int]) -> Callable[[], None]:
    """What the official trainer keeps and computes, but for its masks, which multiply and skip nothing: states and
    attentions of both models, every student layer through the transform, each against four teacher layers, AdamW."""
    student, teacher, inputs = hf_bert(1).train(), hf_bert(2).eval(), padded(lengths)
    transform = torch.nn.Linear(768, 768)
    trained = [p for name, p in student.named_parameters() if "embeddings" not in name]
    optimizer = torch.optim.AdamW([*trained, *transform.parameters()], lr=LEARNING_RATE, weight_decay=0.0)
    wanted = {"output_hidden_states": True, "output_attentions": True}

    def run() -> None:
        with torch.no_grad():
            target = teacher(**inputs, **wanted)
        output = student(**inputs, **wanted)
        states = [transform(state) for state in output.hidden_states[1:]]
        errors = torch.stack(
            [torch.stack([F.mse_loss(state, target.hidden_states[t + 1]) for state in states]) for t in TEACHER_LAYERS]
        )
        layer = errors.gather(1, errors.argmin(1, keepdim=True)).sum()
        soft, hard = output.logits / 2, target.logits / 2
        ce = F.kl_div(F.log_softmax(soft, 1), F.softmax(hard, 1), reduction="batchmean") * 4
        (0.1 * ce + 0.9 * layer).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        student.zero_grad(set_to_none=True)
        transform.zero_grad(set_to_none=True)

    return run
