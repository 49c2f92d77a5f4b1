"""Every rung against fp64 before it is timed: ragged batches, other buckets, several threads at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.gpu.inference import batches
from bench.gpu.inference.engines import RUNGS, run_again
from bench.gpu.inference.session import Session
from bench.gpu.inference.subject import Subject
from bench.structures import DENSE
from cofi.models.replay import ReplayedModel
from cofi_kernels.testing import allowed_beside_eager, relative_error

FAMILY = "correctness"
POISON_BYTES = 1 << 28
_Model = Callable[[Any], Any]  # PackedBatch -> CompactOutput


def states(session: Session, dtype: torch.dtype) -> None:
    """Each rung on every structure: a ragged batch, one of even lengths, one token. A rung that fails is not timed."""
    for name, structure in session.sizes.structures.items():
        even = [min(structure.longest, 128)]
        for lengths in (list(session.sizes.ragged), even, [1]):
            subject = session.subject(name, batches.make(_words(lengths), lengths, structure.vocabulary, 1), dtype)
            for rung, entry in RUNGS.items():
                too_slow = session.smoke and entry.tunes and (len(lengths) == 1 or name == DENSE)
                if rung not in session.refused and not too_slow and entry.why_not(subject) is None:
                    what = f"{name}, {subject.batch.name}, {_short(dtype)}"
                    _judge(session, rung, what, functools.partial(_one, rung, subject))


def buckets(session: Session, dtype: torch.dtype) -> None:
    """Sizes in turns with room for two graphs: captured, dropped and captured anew."""
    name, structure = next(iter(session.sizes.structures.items()))
    subjects = [
        session.subject(name, batches.make(_words(lengths), lengths, structure.vocabulary, i), dtype)
        for i, lengths in enumerate(([16], list(session.sizes.ragged), [7] * 3, [1]))
    ]
    replayed = _replayed(session, subjects[0], max_graphs=2)

    def run() -> float:
        order = (0, 1, 0, 2, 3, 1, 0)
        return max(check(subjects[i], _fields(replayed(subjects[i].batch.packed))) for i in order)

    _judge(session, "2 replay", f"{name}, buckets in turns, {_short(dtype)}", run)


def threads(session: Session, dtype: torch.dtype) -> None:
    """Threads with batches and streams of their own, on one model: the bits of a call alone."""
    name, structure = next(iter(session.sizes.structures.items()))
    made = [
        session.subject(name, batches.make("", list(session.sizes.ragged)[i:], structure.vocabulary, i), dtype)
        for i in range(session.sizes.threads)
    ]
    model = made[0].model
    # graphs are captured by the threads themselves, and compared with those of another object
    calls: dict[str, tuple[_Model, _Model]] = {
        "2 replay": (_replayed(session, made[0], 16), _replayed(session, made[0], 16))
    }
    if session.device == "cuda":  # the interpreter of Triton runs in one thread
        by_launches = torch.no_grad()(lambda batch: model(batch=batch))
        calls["1 launches"] = (by_launches, by_launches)
    for rung, (call, alone) in calls.items():
        if rung not in session.refused:
            what = f"{name}, {session.sizes.threads} threads, {_short(dtype)}"
            _judge(session, rung, what, functools.partial(_together, session, call, alone, made))


def _together(session: Session, call: _Model, alone: _Model, subjects: list[Subject]) -> float:
    wanted = [alone(subject.batch.packed).logits.clone() for subject in subjects]
    wrong: list[str] = []

    def work(subject: Subject, want: Tensor) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()) if session.device == "cuda" else torch.no_grad():
                for _ in range(session.sizes.calls):
                    if not torch.equal(call(subject.batch.packed).logits, want):
                        wrong.append("other bits than the same call alone")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")

    _synchronize(session)
    workers = [threading.Thread(target=work, args=pair) for pair in zip(subjects, wanted, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    _synchronize(session)
    if wrong:
        raise AssertionError(f"{len(wrong)} of {len(subjects) * session.sizes.calls} calls: {wrong[0]}")
    return 0.0


def _one(rung: str, subject: Subject) -> float:
    call = RUNGS[rung].make(subject, True)
    poison(subject.device)
    first = _fields(call())
    worst = check(subject, first)
    second = _fields(call())
    if not all(torch.equal(first[name], second[name]) for name in first):
        raise AssertionError("two calls give different bits")
    return worst


def check(subject: Subject, got: dict[str, Tensor]) -> float:
    """States may err twice as much as eager in their dtype, and half a rounding step; so may logits, of which there are
    too few for a bound of their own: theirs is that of the states where eager's happen to be better.

    Raises AssertionError, returns the largest error of the states.
    """
    eager = subject.eager_errors
    for name, value in got.items():
        error = relative_error(value, subject.truth[name])
        allowed = allowed_beside_eager(max(eager[name], eager["last_hidden_state"]), subject.dtype)
        if not error <= allowed:
            raise AssertionError(f"{name}: relative error {error:.2e} against fp64, at most {allowed:.2e} allowed")
    return relative_error(got["last_hidden_state"], subject.truth["last_hidden_state"])


def poison(device: torch.device) -> None:
    """NaN in the memory that is handed out next: what is left unwritten shows."""
    blocks = [torch.full((n // 4,), float("nan"), device=device) for n in (POISON_BYTES, 1 << 20, 1 << 16, 1 << 12)]
    del blocks


def _judge(session: Session, rung: str, case: str, run: Callable[[], float]) -> None:
    """Record the error, or that the rung is refused."""
    try:
        error = run()
    except Exception as failure:
        session.refused[rung] = f"{case}: {type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"
        session.record.fail(f"{FAMILY}, {rung}, {case}", failure)
        return
    session.record.add(FAMILY, f"{rung}, {case}", "largest relative error of the states against fp64", "", error)


def _replayed(session: Session, subject: Subject, max_graphs: int) -> ReplayedModel:
    capture = None if session.device == "cuda" else run_again
    return ReplayedModel(subject.model, max_graphs=max_graphs, capture=capture)


def _fields(output: Any) -> dict[str, Tensor]:
    return {name: output[name].clone() for name in ("logits", "last_hidden_state")}


def _synchronize(session: Session) -> None:
    if session.device == "cuda":
        torch.cuda.synchronize()


def _words(lengths: list[int]) -> str:
    return f"{len(lengths)} x {lengths[0]}" if len(set(lengths)) == 1 else f"{len(lengths)} ragged"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
