"""Our own ways to run a model, the rungs of the ladder. A new one is a function here and a line in RUNGS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.gpu.inference.subject import Subject, by_persistent, encoder_by
from cofi.models.output import CompactOutput
from cofi.models.replay import ReplayedModel
from cofi_kernels.compact_encoder.graphs import Replay
from cofi_kernels.launching import launching
from cofi_kernels.native import why_not_cuda

Call = Callable[[], CompactOutput]


class Rung(NamedTuple):
    """make: a call from a batch on the device to the model's output, with the states or, as it is timed, logits alone.

    captured: replayed as a graph when it is timed
    tunes:    it measures many ways to launch first, which takes long in an interpreter
    why_not:  why it cannot run a subject, or None
    """

    make: Callable[[Subject, bool], Call]
    captured: bool
    tunes: bool = False
    why_not: Callable[[Subject], str | None] = lambda subject: None


def launches(subject: Subject, states: bool = False) -> Call:
    """The model called as any PyTorch module: embeddings, the fused sublayers, pooler and head, launch by launch."""
    return torch.no_grad()(lambda: subject.model(batch=subject.batch.packed))


def replay(subject: Subject, states: bool = False, **options: bool) -> Call:
    """`ReplayedModel` as users call it: its bookkeeping, copies into and out of the bucket's buffers included."""
    capture = None if subject.device.type == "cuda" else run_again
    outputs = None if states else ("logits",)
    replayed = ReplayedModel(subject.model, outputs=outputs, capture=capture, **options)
    return lambda: replayed(subject.batch.packed)


def launching_so(**options: bool) -> Callable[[Subject, bool], Call]:
    """`launches` with a choice that is off unless asked for."""

    def make(subject: Subject, states: bool) -> Call:
        call = launches(subject)

        def run() -> CompactOutput:
            with launching(**options):
                return call()

        return run

    return make


def persistent(subject: Subject, states: bool = False) -> Call:
    """`launches` with the layers as one CUDA kernel."""
    call = launches(subject)

    def run() -> CompactOutput:
        with encoder_by(by_persistent):
            return call()

    return run


def why_not_persistent(subject: Subject) -> str | None:
    if subject.device.type != "cuda":
        return "needs a CUDA device"
    reason = why_not_cuda()
    if reason is not None:
        return reason
    from cofi_kernels.compact_encoder import cuda

    model, batch = subject.model, subject.batch.packed
    x = model.embeddings.word.weight.new_empty((batch.n_tokens, model.config.hidden_size))
    return cuda.plan_of(model.layout, x, batch.cu_seqlens, batch.max_seqlen).refusal or None


RUNGS: dict[str, Rung] = {
    "1 launches": Rung(launches, captured=False),
    "2 graph": Rung(launches, captured=True),  # the sizes of the batch, fixed buffers: as rivals are replayed
    "2 replay": Rung(replay, captured=False),
    "2 graph, dependent": Rung(launching_so(dependent=True), captured=True),
    "2 graph, tuned": Rung(launching_so(tuned=True), captured=True, tunes=True),
    "2 replay, both": Rung(partial(replay, dependent=True, tune=True), captured=False, tunes=True),
    "3 persistent": Rung(persistent, captured=True, why_not=why_not_persistent),
}


def run_again(function: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor) -> Replay:
    """A capture for a CPU, to try the program there: its replay computes everything anew."""
    outputs = function(inputs)

    def run() -> None:
        for old, new in zip(outputs, function(inputs), strict=True):
            old.copy_(new)

    return Replay(run, inputs, outputs)
