"""Closing the loop of a target speedup: time what would be delivered, and correct what the masks are fitted to.

A profile adds up sublayers; what they do to one another and what every call costs is in it on average only. Structures
fitted to it were measured within 4 % of the request on 32 sentences, and 4 to 10 % too slow on one. So before the model
that pruning has chosen is trained on, it is cut and timed against the dense one. Where it is off, the masks are fitted
to a goal that is off as much the other way: latency is latency by the profile times a factor that changes little from
one structure to the next, so the goal is divided by the factor that was measured. A measurement in another state of the
machine than the profile's corrects nothing: with a neighbour on the core a structure fitted to 8 times was measured at
9.6, made larger for it, and was 6.2 times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cofi.masks import Gates, Masks, Shifts, SpeedupTarget, Structure, fit
from cofi.measure.speedup import Ratio
from cofi.profile.profile import Profile
from cofi.prune import compact
from cofi.train.checkpoint import load_checkpoint, save_checkpoint
from cofi.train.constraint import same_machine
from cofi.train.deployment import TOLERANCE, measure_as_profiled
from cofi.train.interrupt import Interrupted
from cofi.train.objective import Student
from cofi.train.selection import Evaluator, load_student_state
from cofi.train.session import Session

CORRECTIONS = 3  # a factor of 1.1 that belongs to every call is down to 1.01 after one, to 1.001 after two
KEY = "calibration"  # of the state that pruning hands on, and of what result.json says of the target speedup


@dataclass(frozen=True)
class Round:
    """One structure: the speedup that its masks were fitted to, what the profile says of it and what was measured.

    uncertainty: of `measured`, a fraction; timed: rounds of timing; gflops: rate of the machine in them; disturbed:
    whether that is less than the profile's, so that `measured` says nothing about the structure; estimate: what its
    speedup is taken for: `measured`, or where that is disturbed `predicted` times what the last measurement that was
    not was off by
    """

    aim: float
    predicted: float
    measured: float
    uncertainty: float
    timed: int
    gflops: float
    disturbed: bool
    estimate: float
    shifts: Shifts

    def off(self, asked: float) -> float:
        """How far it is from the request: 0.1 and -0.1 are 10 % too fast and too slow."""
        return self.estimate / asked - 1

    def is_close(self, asked: float) -> bool:
        """Whether there is nothing to correct, or nothing that could be told from noise."""
        return abs(self.off(asked)) <= max(TOLERANCE, self.uncertainty)


def search(gates: Gates, target: SpeedupTarget, shifts: Shifts, measure: Callable[[Masks], Ratio]) -> Iterator[Round]:
    """The structure that `shifts` make of the gates, then corrected ones, until one has the target's speedup.

    Ends after CORRECTIONS, and before where a measurement is disturbed, or the next structure is out of the profile's
    reach or was measured already.
    """
    asked, aim, factor = target.speedup, target.speedup, 1.0
    seen: set[Structure] = set()
    for _ in range(1 + CORRECTIONS):
        masks = gates.deterministic(shifts)
        structure = masks.structure(gates.shape)
        if structure in seen or (seen and structure.hidden == 0):
            return
        seen.add(structure)
        predicted = float(target.shown(target.of_masks(masks.alive())))
        ratio = measure(masks)
        factor = factor if ratio.disturbed else ratio.value / predicted
        measured = (ratio.value, ratio.uncertainty, ratio.rounds, ratio.gflops, ratio.disturbed)
        found = Round(aim, predicted, *measured, estimate=predicted * factor, shifts=shifts)
        yield found
        aim = max(1.0, asked / factor)
        if found.disturbed or found.is_close(asked) or aim >= target.most:
            return
        shifts = fit(gates, SpeedupTarget(target.latency, aim))


def nearest(rounds: list[Round], asked: float) -> int:
    """Which round to keep: the one whose speedup is nearest to the request, the earliest of equals."""
    return min(range(len(rounds)), key=lambda i: abs(math.log(rounds[i].estimate / asked)))


def calibrate(session: Session, student: Student, best: dict[str, Any]) -> dict[str, Any]:
    """The state that pruning hands on, with the shifts of the structure measured nearest to the request.

    What that changes is kept in the run, so that one that is continued cuts the very same structure and measures
    nothing. Without a target speedup the state is `best`. The main process measures for all. Raises Interrupted where a
    signal has come, before anything is kept: the run that goes on measures again.
    """
    constraint = student.constraint
    if constraint is None or not isinstance(constraint.target, SpeedupTarget):
        return best
    kept = session.world.decide(lambda: _kept(session.run.calibration))
    if kept is None and not session.is_past("prune"):  # a run past it has cut its model without
        load_student_state(student, best)
        kept = _calibrated(session, student, constraint.target, best["shifts"])
        if session.world.is_main:
            save_checkpoint(session.run.calibration, kept)
    if kept is not None and not session.is_past("prune"):
        session.seconds[KEY] = kept[KEY]["seconds"]
        for row in rows(kept[KEY]):
            session.monitor.record({"type": KEY, "phase": "prune", "step": session.global_step, **row})
    return best | (kept or {})


def _kept(path: Path) -> dict[str, Any] | None:
    return load_checkpoint(path) if path.exists() else None


def rows(calibration: dict[str, Any]) -> list[dict[str, Any]]:
    """The rounds of a calibration as they are reported."""
    names = ("aim", "predicted", "measured", "uncertainty", "timed", "gflops", "disturbed", "estimate")
    return [
        {"round": index, "requested": calibration["requested"], **{name: found[name] for name in names}}
        for index, found in enumerate(calibration["rounds"])
    ]


def _calibrated(session: Session, student: Student, target: SpeedupTarget, shifts: Shifts) -> dict[str, Any]:
    """The calibration, and what the masks of the chosen round are and score where they are others than those before."""
    started = session.monitor.seconds
    outcome = session.world.decide(lambda: _measured(session, student, target, shifts))
    (signum,) = session.world.agree(session.guard.received or 0)
    if signum:
        raise Interrupted(signum)
    kept: dict[str, Any] = {}
    if outcome["rounds"]:
        asked = target.speedup
        chosen = outcome["rounds"][outcome["chosen"]]
        if outcome["chosen"] > 0:
            kept = Evaluator(session, "prune", student).rescored(chosen["shifts"])
        kept["target_reached"] = chosen["estimate"] >= asked * (1 - max(TOLERANCE, chosen["uncertainty"]))
    return {**kept, KEY: {**outcome, "seconds": session.monitor.seconds - started}}


def _measured(session: Session, student: Student, target: SpeedupTarget, shifts: Shifts) -> dict[str, Any]:
    """{requested, rounds, chosen}, or {requested, rounds: [], left_out: why}. In the main process alone."""
    profile, gates = session.profile, student.gates
    assert profile is not None and gates is not None
    asked = target.speedup
    reason = _left_out(session, student, profile)
    if reason:
        session.monitor.message(f"calibration: left out, {reason}; the speedup is that of the profile")
        return {"requested": asked, "rounds": [], "left_out": reason}
    seconds = session.config.measure_seconds / 2

    def measure(masks: Masks) -> Ratio:
        small = compact(student.model, masks)
        return measure_as_profiled(profile, student.model, small, seconds, session.monitor.message)

    rounds: list[Round] = []
    for found in search(gates, target, shifts, measure):
        rounds.append(found)
        session.monitor.message(_sentence(found, asked))
        if session.guard.received:
            break
    chosen = nearest(rounds, asked)
    if rounds[chosen].disturbed:
        how = "corrected by the measurement before" if chosen > 0 else "not corrected: the speedup is the profile's"
        session.monitor.message(f"[yellow]calibration: {how}; the machine is in use[/yellow]")
    elif not rounds[chosen].is_close(asked):
        session.monitor.message(
            f"[yellow]calibration: no structure came closer than {rounds[chosen].estimate:.3g}x to {asked:g}x[/yellow]"
        )
    return {"requested": asked, "rounds": [asdict(found) for found in rounds], "chosen": chosen}


def _left_out(session: Session, student: Student, profile: Profile) -> str:
    """Why nothing can be measured or corrected; empty where it can."""
    if student.held_to.counts != "kept":
        return "--constraint expected does not hold the masks that are delivered to the target"
    if session.config.measure_seconds == 0:
        return "--measure-seconds is 0"
    if not same_machine(profile):
        return "the profile is of another machine than this one"
    return ""


def _sentence(found: Round, asked: float) -> str:
    return (
        f"calibration: asked {asked:.4g}x, measured {found.measured:.4g}x (+-{100 * found.uncertainty:.1f} %), by the "
        f"profile {found.predicted:.4g}x"
    )
