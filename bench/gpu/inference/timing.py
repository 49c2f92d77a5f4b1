"""A structure on a batch: our rungs and their rivals, outputs compared, then raced; and what our launches take."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.gpu.clock import Contestant, prepare
from bench.gpu.inference import accounting, targets
from bench.gpu.inference.clock import Times, race
from bench.gpu.inference.engines import RUNGS, Call
from bench.gpu.inference.rivals import RIVALS, Rival
from bench.gpu.inference.session import MNLI, Session
from bench.gpu.inference.subject import Subject
from bench.structures import DENSE
from cofi_kernels.testing import relative_error

FAMILY = "inference"
# logits of a batch may err so many times as much as eager's logits or states: those of one sentence are three numbers,
# whose errors are a matter of luck; the strict bound is that of the states in correctness.py
LOGITS_FACTOR = 4.0
MOST_COMPILE_S = 120.0
L2 = "warm: calls in a row; cold: after 256 MB were written; wall: one call on the host's clock"


def run(session: Session, structure: str, batch: str) -> None:
    """The row of one structure and batch."""
    subject = session.subject(structure, session.batch(structure, batch), session.sizes.dtypes[0])
    contest = Contest(session)
    contest.add_rungs(subject)
    contest.add_rivals(subject, RIVALS)
    _record(session, subject, contest, contest.race())
    accounting.run(session, subject)


def run_gain(session: Session, batch: str = "128 x 128") -> None:
    """The pruned model in our kernels beside the dense one in every rival, in one race."""
    dtype = session.sizes.dtypes[0]
    ours = session.subject("s95", session.batch("s95", batch), dtype)
    dense = session.subject(DENSE, session.batch(DENSE, batch), dtype)
    contest = Contest(session)
    contest.add_rungs(ours)
    contest.add_rivals(dense, RIVALS)
    times = {name: t.medians()["warm"] for name, t in contest.race().items()}
    rivals = {name: times[name] for name in contest.rivals if name in times}
    best = min((times[name] for name in contest.rungs), default=0.0)
    if not rivals or not best:
        session.record.skip(f"gain, {batch}", "no rung or no rival could be timed")
        return
    gain, target = min(rivals.values()) / best, targets.of_gain()
    session.record.add(
        FAMILY,
        f"s95, {batch}",
        "gain over dense",
        "x",
        gain,
        target=target,
        rivals=rivals,
        ours_us=best,
        left_out=contest.left_out,
        rivals_unit="us",
    )


class Contest:
    """Contestants that gave the right logits; what is left out, and why."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.contestants: list[Contestant] = []
        self.rungs: list[str] = []
        self.rivals: list[str] = []
        self.left_out: dict[str, str] = {}

    def add_rungs(self, subject: Subject) -> None:
        for name, rung in RUNGS.items():
            if name in self.session.refused:
                self.left_out[name] = f"not correct: {self.session.refused[name]}"
                continue
            reason = rung.why_not(subject)
            if reason is None and self.session.smoke and rung.tunes:
                reason = "it is not timed in a smoke run"
            if reason is not None:
                self.left_out[name] = reason
                continue
            self._add(name, partial(_logits, rung.make(subject, False)), rung.captured, subject, self.rungs)

    def add_rivals(self, subject: Subject, rivals: dict[str, Rival]) -> None:
        for name, rival in rivals.items():
            reason = rival.why_not(subject) or self._no_time(name, rival)
            if reason is not None:
                self.left_out[name] = reason
                continue
            start = time.monotonic()
            bound = max(min(self.session.clock.to_spare, MOST_COMPILE_S), 1.0)
            try:
                with self.session.clock.at_most(bound):
                    self._add(name, rival.make(subject), rival.captured, subject, self.rivals)
            except Exception as error:
                self.left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            if rival.compiles:
                self.session.compile_s[name] = time.monotonic() - start

    def _no_time(self, name: str, rival: Rival) -> str | None:
        needed, left = self.session.compile_s.get(name, rival.compiles), self.session.clock.to_spare
        if not rival.compiles or self.session.smoke or needed <= left:
            return None
        return f"it compiles for {needed:.0f} s, {max(left, 0):.0f} s are to spare"

    def _add(self, name: str, run: Callable[[], Tensor], captured: bool, subject: Subject, group: list[str]) -> None:
        """Compare the logits of a first call, then those of a replay where it can be captured."""
        difference = _judge(subject, run())
        contestant = prepare(name, run) if captured else Contestant(name, run, False)
        if difference is None and contestant.graphed:
            difference = _judge(subject, _replayed(run))
        if captured and not contestant.graphed and self.session.device == "cuda":
            difference = difference or "it could not be captured"
        if difference is not None:
            self.left_out[name] = difference
            return
        self.contestants.append(contestant)
        group.append(name)

    def race(self) -> dict[str, Times]:
        gc.collect()
        return race(self.contestants, self.session.sizes.rounds) if self.contestants else {}


def _logits(call: Call) -> Tensor:
    logits = call().logits
    assert logits is not None
    return logits


def _replayed(run: Callable[[], Tensor]) -> Tensor:
    """What a replayed graph leaves in its output, whose memory was overwritten before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    out.fill_(float("nan"))
    graph.replay()
    return out


def _judge(subject: Subject, logits: Tensor) -> str | None:
    """What is wrong with the logits, or None."""
    error, eager = relative_error(logits.to(subject.dtype), subject.truth["logits"]), max(subject.eager_errors.values())
    allowed = LOGITS_FACTOR * eager + torch.finfo(subject.dtype).eps / 2
    return None if error <= allowed else f"its logits err by {error:.1e} against fp64, at most {allowed:.1e} allowed"


def _record(session: Session, subject: Subject, contest: Contest, times: dict[str, Times]) -> None:
    structure, batch = subject.name, subject.batch
    case = f"{structure}, {batch.name}"
    medians = {name: t.medians() for name, t in times.items()}
    ours = {name: medians[name]["warm"] for name in contest.rungs}
    rivals = {name: medians[name]["warm"] for name in contest.rivals}
    if not ours:
        session.record.skip(case, "no rung was correct")
        return
    best = min(ours, key=ours.__getitem__)
    element = subject.dtype.itemsize
    flops, n_bytes = subject.structure.flops(batch.lengths), subject.structure.bytes_moved(batch.lengths, element)
    floor = session.floor_us(flops, n_bytes)
    facts: dict[str, Any] = {
        "best_rung": best,
        "rungs": ours,
        "states": medians,  # of caches
        "l2": L2,
        "eager_launches": [c.name for c in contest.contestants if not c.graphed],
        "left_out": contest.left_out,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "tokens": sum(batch.lengths),
        "share_of_floor": round(floor / ours[best], 4),
    }
    facts |= {"best_rival": min(rivals, key=rivals.__getitem__)} if rivals else {}
    common = {"rivals": rivals, "floor": floor, "spread": times[best].spread, **facts}
    target = targets.of_time(structure, batch.name, rivals)
    session.record.add(FAMILY, case, "time from packed ids to logits", "us", ours[best], target=target, **common)
    if batch.name == MNLI:
        rate = len(batch.lengths) / (ours[best] * 1e-6)
        rates = {name: len(batch.lengths) / (us * 1e-6) for name, us in rivals.items()}
        target = targets.of_rate(structure, batch.name)
        session.record.add(FAMILY, case, "throughput", "sentences/s", rate, target=target, rivals=rates)
