"""Our own ways to run a model, the rungs of the ladder. A new one is a function here and a line in RUNGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bench.gpu.inference.subject import Refused, Subject, by_persistent_kernel, encoder_by
from cofi.models.output import CompactOutput
from cofi.models.replay import ReplayedModel
from cofi_kernels.compact_encoder.graphs import Replay
from cofi_kernels.native import why_not_cuda

Call = Callable[[], CompactOutput]


class Rung(NamedTuple):
    """make: a call from a batch on the device to the model's output, with the states or, as it is timed, logits alone.

    captured: replayed as a graph when it is timed
    why_not:  why it cannot run a subject, or None
    """

    make: Callable[[Subject, bool], Call]
    captured: bool
    why_not: Callable[[Subject], str | None] = lambda subject: None


def launches(subject: Subject, states: bool = False) -> Call:
    """The model called as any PyTorch module: embeddings, the fused sublayers, pooler and head, launch by launch."""
    return torch.no_grad()(lambda: subject.model(batch=subject.batch.packed))


def replay(subject: Subject, states: bool = False) -> Call:
    """`ReplayedModel` as users call it: its bookkeeping, copies into and out of the bucket's buffers included."""
    capture = None if subject.device.type == "cuda" else run_again
    replayed = ReplayedModel(subject.model, outputs=None if states else ("logits",), capture=capture)
    return lambda: replayed(subject.batch.packed)


def persistent(subject: Subject, states: bool = False) -> Call:
    """The model with one kernel in place of the sublayers."""

    def call() -> CompactOutput:
        with torch.no_grad(), encoder_by(by_persistent_kernel):
            return subject.model(batch=subject.batch.packed)

    return call


def _not_persistent(subject: Subject) -> str | None:
    reason = why_not_cuda()
    if reason is not None:
        return reason
    try:
        persistent(subject)()
    except Refused as error:
        return str(error)
    return None


RUNGS: dict[str, Rung] = {
    "1 launches": Rung(launches, captured=False),
    "2 graph": Rung(launches, captured=True),  # the sizes of the batch, fixed buffers: as rivals are replayed
    "2 replay": Rung(replay, captured=False),
    "3 persistent": Rung(persistent, captured=True, why_not=_not_persistent),
}


def run_again(function: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor) -> Replay:
    """A capture for a CPU, to try the program there: its replay computes everything anew."""
    outputs = function(inputs)

    def run() -> None:
        for old, new in zip(outputs, function(inputs), strict=True):
            old.copy_(new)

    return Replay(run, inputs, outputs)
