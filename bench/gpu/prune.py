"""What a prune of MNLI would take: steps as cofi.train takes them as units die, and their sum over its schedule.

A batch of sentences as long as MNLI's is made on the host, sent to the device, padded to a form that recurs and run by
`GraphedSteps`; all on the host's clock, which waits for whichever of the two is slower.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from bench import measure, sentences
from bench.gpu.bench import Bench
from bench.gpu.inference.batches import mnli_like, real_mnli
from bench.gpu.record import Target, summary
from bench.gpu.sizes import Sizes
from bench.gpu.step import FAMILY, OPS
from bench.gpu.training import run_again, training
from cofi.data.split import Ragged, TokenizedSplit
from cofi.train.distributed import ALONE
from cofi.train.graph import MAX_GRAPHS
from cofi.train.shares import take_share
from cofi.train.teacher import AUTO_SHARE, CHUNK_ROWS, free_bytes
from cofi.train.teacher_store import Contents

LIMIT_MINUTES = 15.0
EPOCHS, RAMP_EPOCHS, BATCH, SPARSITY = 20, 2, 32, 0.95
TEACHERS = {"teacher computed": False, "teacher cached": True}
WARM_PASSES = 2  # of a form of batch the first step is launched and the second recorded


def run(bench: Bench) -> None:
    s = bench.sizes
    lengths, of = lengths_of(bench)
    split = split_of(s, lengths)
    cache_bytes = _cache_bytes(s, sum(lengths) / len(lengths))
    fits = cache_bytes <= AUTO_SHARE * free_bytes(torch.device(bench.device))  # what --teacher-cache auto asks
    step_ms: dict[str, dict[float, float]] = {name: {} for name in TEACHERS}
    for live in s.live:
        found = bench.attempt(f"{FAMILY}, {live:.0%} live, {of}", partial(_time, bench, live, split, of)) or {}
        for name, value in found.items():
            step_ms[name][live] = value
    for name, by_live in step_ms.items():
        if len(by_live) < 2:
            bench.record.skip(f"{EPOCHS} epochs, {name}", "fewer than two live fractions were timed")
            continue
        bench.record.add(
            FAMILY,
            f"{EPOCHS} epochs of {s.mnli_rows} rows, {of}, {name}, extrapolated",
            "time of all steps",
            "min",
            prune_seconds(by_live, s.mnli_rows) / 60,
            target=Target("a full 20-epoch MNLI-sized prune", LIMIT_MINUTES) if TEACHERS[name] == fits else None,
            cache_gb=round(cache_bytes / 1e9, 1),
            taken_by_auto=TEACHERS[name] == fits,
        )


def lengths_of(bench: Bench) -> tuple[list[int], str]:
    """Tokens of each row, and what they are: MNLI's own where the data set is there."""
    s = bench.sizes
    n = s.mnli_batches * s.n_sequences
    real = None if bench.smoke else real_mnli(n, sentences.data_folder())
    return (real, "MNLI's lengths") if real else (mnli_like(n, s.mnli_longest), "lengths like MNLI's")


def split_of(sizes: Sizes, lengths: Sequence[int]) -> TokenizedSplit:
    """Random tokens and labels."""
    random = np.random.default_rng(0)
    ids = Ragged.of([random.integers(5, sizes.vocabulary, n) for n in lengths], np.int32)
    types = Ragged.of([np.zeros(n) for n in lengths], np.int8)
    return TokenizedSplit(ids, types, labels=random.integers(0, 3, len(lengths)))


class Passes:
    """Calls take the steps of all batches of a split, again and again; gives the seconds of one."""

    def __init__(self, bench: Bench, live: float, split: TokenizedSplit, *, cached: bool) -> None:
        self.split, self.heard = split, list[str]()
        self.run = training(bench, live, cached=cached, split=split, gates_rate=0.0)
        capture = None if bench.device == "cuda" else run_again
        self.take_step = self.run.graphed(MAX_GRAPHS, self.heard.append, capture)
        n = bench.sizes.n_sequences
        self.batches = [range(first, min(first + n, len(split))) for first in range(0, len(split), n)]
        self.step = 0

    def __call__(self) -> float:
        """As the loop of cofi.train, without its log, evaluations and checkpoints."""
        measure.drain()
        start = time.perf_counter()
        for rows in self.batches:
            self.run.student.model.train()
            self.take_step(take_share(self.split, rows, ALONE), self.step)
            self.step += 1
        measure.drain()
        return (time.perf_counter() - start) / len(self.batches)


def _time(bench: Bench, live: float, split: TokenizedSplit, of: str) -> dict[str, float]:
    """ms of a step with either teacher, in turns, recorded."""
    gc.collect()  # graphs of the live fraction before hold on to their memory by cycles
    passes = {name: Passes(bench, live, split, cached=cached) for name, cached in TEACHERS.items()}
    times = _race(passes, bench.sizes.mnli_passes)
    found: dict[str, float] = {}
    for name, seconds in times.items():
        found[name], spread = summary([t * 1e3 for t in seconds])
        bench.record.add(
            FAMILY,
            f"{live:.0%} live, {name}, {bench.sizes.n_sequences} x {of}",
            "time of a step, its batch made and copied",
            "ms",
            found[name],
            spread=spread,
            backend=bench.backend(*OPS),
            launched=passes[name].heard,
        )
    return found


def _race(passes: dict[str, Passes], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in passes}
    for round_ in range(WARM_PASSES + rounds):
        for name, take_pass in passes.items():
            seconds = take_pass()
            if round_ >= WARM_PASSES:
                times[name].append(seconds)
    return times


def _cache_bytes(sizes: Sizes, mean_tokens: float) -> int:
    """Of the outputs of a teacher for all rows."""
    rows = sizes.mnli_rows
    contents = Contents(
        n_tokens=round(rows * mean_tokens),
        n_rows=rows,
        hidden=sizes.hidden,
        layers=tuple(range(sizes.n_matched)),
        outputs=("logits",),
        of_tokens=(),
        n_numbers=3,
        dtype=str(sizes.dtype).removeprefix("torch."),
        chunk_rows=CHUNK_ROWS,
    )
    return contents.n_bytes()


def prune_seconds(step_ms: dict[float, float], rows: int) -> float:
    """Sum over the steps of the time at their target sparsity, between the measured ones in a straight line."""
    steps = rows / BATCH
    points = sorted(step_ms.items())

    def at(live: float) -> float:
        pairs = zip(points, points[1:], strict=False)
        low, high = next((pair for pair in pairs if live <= pair[1][0]), (points[-2], points[-1]))
        share = (min(max(live, low[0]), high[0]) - low[0]) / (high[0] - low[0])
        return low[1] + share * (high[1] - low[1])

    ramp = [at(1.0 - SPARSITY * (k + 0.5) / 100) for k in range(100)]
    return 1e-3 * steps * (RAMP_EPOCHS * sum(ramp) / 100 + (EPOCHS - RAMP_EPOCHS) * at(1.0 - SPARSITY))
