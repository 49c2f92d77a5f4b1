"""Where the time of a call goes: each launch of the encoder as planned beside what the profiler saw of it."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

import torch

from bench.gpu.clock import prepare
from bench.gpu.inference.engines import launches
from bench.gpu.inference.session import Session
from bench.gpu.inference.subject import Subject
from cofi_kernels.compact_encoder.costs import Launch

FAMILY = "launches"
CALLS = 7
OURS = ("linear_kernel", "attention_kernel", "ffn_kernel", "finish_kernel")
UNSEEN = "not available: the profiler recorded no kernels"


class _Kernel(NamedTuple):
    name: str
    start: float
    end: float

    @property
    def us(self) -> float:
        return self.end - self.start


def run(session: Session, subject: Subject) -> None:
    planned = planned_launches(subject)
    profiled = _profile(subject) if session.device == "cuda" else []
    calls = [call for call in profiled if call]  # a driver may keep kernels of some calls, or all, from the profiler
    rows = [_row(session, launch) for launch in planned]
    encoder = [[kernel.us for kernel in call if kernel.name in OURS] for call in calls]
    matched = bool(encoder) and all(len(call) == len(planned) > 0 for call in encoder)
    for i, row in enumerate(rows):
        row["measured_us"] = round(statistics.median(call[i] for call in encoder), 2) if matched else None
    floor = sum(row["floor_us"] for row in rows)
    totals = _totals(calls)
    facts: dict[str, Any] = {"launches": rows, "predicted_us": round(sum(row["predicted_us"] for row in rows), 1)}
    facts |= {"profile": UNSEEN} if profiled and not calls else totals
    facts |= {"rung": "2 graph", "tokens": sum(subject.batch.lengths)}
    if matched:
        facts["share_of_floor"] = round(floor / totals["encoder_us"], 4)
    case, metric = f"{subject.name}, {subject.batch.name}", "launches of the encoder"
    session.record.add(FAMILY, case, metric, "", len(planned), floor=floor, **facts)


def planned_launches(subject: Subject) -> list[Launch]:
    from cofi_kernels.compact_encoder.triton_kernels import PaddedEncoder

    model, batch = subject.model, subject.batch.packed
    encoder = PaddedEncoder(model.encoder_weights(), model.layout, model.config.hidden_size)
    sublayers = encoder.launches(batch.n_tokens, batch.n_sequences, subject.device)
    return [launch._replace(what=f"{i}: {launch.what}") for i, sublayer in enumerate(sublayers) for launch in sublayer]


def _row(session: Session, launch: Launch) -> dict[str, Any]:
    floor = session.floor_us(launch.flops, launch.n_bytes)
    return {
        "what": launch.what,
        "kernel": launch.kernel,
        "programs": launch.programs,
        "bytes": launch.n_bytes,
        "flops": launch.flops,
        "predicted_us": round(launch.us, 2),
        "floor_us": round(floor, 3),
    }


def _profile(subject: Subject) -> list[list[_Kernel]]:
    """Kernels of some calls, in their order, replayed as a graph: what a call left is in L2 for the next."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    run = prepare("profiled", launches(subject)).run
    run()
    found = []
    for _ in range(CALLS):
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            run()
            torch.cuda.synchronize()
        events = sorted(
            (e for e in seen.events() if e.device_type == DeviceType.CUDA), key=lambda e: e.time_range.start
        )
        found.append([_Kernel(e.name, e.time_range.start, e.time_range.end) for e in events])
    return found


def _totals(calls: list[list[_Kernel]]) -> dict[str, Any]:
    """Of the encoder's kernels, of those around them (embeddings, head), and of the time in which none of them ran."""
    if not calls:
        return {}
    ours = [sum(kernel.us for kernel in call if kernel.name in OURS) for call in calls]
    others = [sum(kernel.us for kernel in call if kernel.name not in OURS) for call in calls]
    spans = [max(kernel.end for kernel in call) - call[0].start for call in calls]
    idle = [span - a - b for span, a, b in zip(spans, ours, others, strict=True)]
    return {
        "encoder_us": round(statistics.median(ours), 2),
        "others_us": round(statistics.median(others), 2),
        "idle_us": round(statistics.median(idle), 2),
        "others": [kernel.name[:80] for kernel in calls[-1] if kernel.name not in OURS],
    }
