"""How much faster a compact model is than its dense original, on batches like those of its data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofi.machine import machine_info
from cofi.measure.rate import TRUSTED_ROUNDS, Rounds, gauged_rounds
from cofi.models import CompactModel, CompactOutput, PackedBatch, from_lists
from cofi_kernels import force_backend

MAX_ROUNDS = 200
# Largest difference between the fast path and the definition, relative to the largest output, for each precision. It
# tells a wrong kernel from rounding (one in int8 or bf16 is a 255th); how exact the kernels are is for their own tests.
TOLERANCES = {"fp32": 2e-3, "bf16": 5e-2, "int8": 5e-2}


def measure_speedup(
    dense: CompactModel,
    compact: CompactModel,
    lengths: Sequence[int],
    batch_sizes: Sequence[int] = (1, 32),
    *,
    seconds: float = 10.0,
    gflops: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time both models on packed batches with the given sequence lengths, interleaved, outputs checked first.

    lengths:     tokens of each sequence of some real data; a batch takes its evenly spaced quantiles
    batch_sizes: sequences a batch; each gives an entry "batch N" in the result
    seconds:     time for all measurements together; three rounds are made in any case
    gflops:      rate of `cofi.measure.rate.Gauge` at which a round counts, which may take PATIENCE times as long to
                 find; None: at any
    Returns parts of result.json: latency_ms {"teacher", "compact": {name: median}}, speedup {name: ratio of the
    medians}, measured {lengths, and of each batch size rounds, gflops, spread and disturbed}, machine.
    Raises ValueError for models on different devices or a bad argument, RuntimeError where the compact model does
    not compute what its definition says.
    """
    device = _common_device(dense, compact)
    lengths = [int(length) for length in lengths]
    _check_counts(lengths, batch_sizes)
    share = seconds / len(batch_sizes)
    found: dict[str, Rounds] = {}
    with _inference(dense, compact):
        for size in batch_sizes:
            calls = _checked_calls(dense, compact, quantile_batch(lengths, size, _vocabulary(dense, compact), seed))
            found[f"batch {size}"] = gauged_rounds(calls, device, MAX_ROUNDS, seconds=share, gflops=gflops)
    return _as_result(found, lengths, machine_info(device))


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the dense model the compact one is.

    value: median over the rounds of the ratio of the two times in one; uncertainty: half of its 95 % interval as a
    fraction of it; rounds: that count; ms: {"teacher", "compact": median}; gflops: rate of the gauge meanwhile;
    disturbed: whether that is less than was asked for
    """

    value: float
    uncertainty: float
    rounds: int
    ms: dict[str, float]
    gflops: float
    disturbed: bool = False

    @classmethod
    def of(cls, found: Rounds) -> Ratio:
        """From seconds of "teacher" and "compact", two rounds at least.

        Rounds are compared within themselves: what slows the machine for seconds slows both. The interval is that of a
        median of normal values, 2 * 1.25 sigma / sqrt(n), with sigma from the quartiles, which bursts do not reach.
        """
        samples = found.samples
        ratios = [a / b for a, b in zip(samples["teacher"], samples["compact"], strict=True)]
        low, value, high = statistics.quantiles(ratios, n=4, method="inclusive")
        uncertainty = 2 * 1.25 * (high - low) / 1.35 / math.sqrt(len(ratios)) / value
        ms = {name: _rounded(1e3 * statistics.median(times)) for name, times in samples.items()}
        return cls(_rounded(value), _rounded(uncertainty), len(ratios), ms, _rounded(found.gflops), found.disturbed)


def measure_ratio(
    dense: CompactModel,
    compact: CompactModel,
    lengths: Sequence[int],
    *,
    seconds: float,
    within: float,
    at_most: float,
    gflops: float | None,
    seed: int = 0,
) -> Ratio:
    """The speedup on one batch of sequences of these very lengths, timed as `measure_speedup` does.

    within:  uncertainty at which timing ends
    seconds: from then on `at_most` is enough
    gflops:  rate of the gauge at which a round counts; with one, timing goes on for PATIENCE times `seconds` at most
    Raises as `measure_speedup` does.
    """
    device = _common_device(dense, compact)
    _check_counts(lengths, [len(lengths)])

    def enough(rounds: Rounds, late: bool) -> bool:
        return rounds.counted >= TRUSTED_ROUNDS and Ratio.of(rounds).uncertainty <= (at_most if late else within)

    with _inference(dense, compact):
        batch = quantile_batch(lengths, len(lengths), _vocabulary(dense, compact), seed)
        calls = _checked_calls(dense, compact, batch)
        return Ratio.of(gauged_rounds(calls, device, MAX_ROUNDS, seconds=seconds, gflops=gflops, enough=enough))


def _check_counts(lengths: Sequence[int], batch_sizes: Sequence[int]) -> None:
    if not lengths or min(lengths) < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(
            f"lengths and batch_sizes must hold positive integers, got {lengths!r:.80}, {batch_sizes!r:.80}"
        )


def _checked_calls(dense: CompactModel, compact: CompactModel, batch: PackedBatch) -> dict[str, Callable[[], object]]:
    """What is timed, on a batch on which the compact model was found to compute what it should."""
    batch = batch.to(_common_device(dense, compact))
    check_against_definition(compact, batch=batch)
    return {"teacher": partial(dense, batch=batch), "compact": partial(compact, batch=batch)}


def _as_result(found: dict[str, Rounds], lengths: Sequence[int], machine: dict[str, Any]) -> dict[str, Any]:
    models = ("teacher", "compact")
    timings = {name: rounds.timings for name, rounds in found.items()}
    return {
        "latency_ms": {
            model: {name: _rounded(1e3 * times[model].median_s) for name, times in timings.items()} for model in models
        },
        "speedup": {name: _rounded(t["teacher"].median_s / t["compact"].median_s) for name, t in timings.items()},
        "measured": {
            "lengths": {"median": statistics.median(lengths), "longest": max(lengths)},
            "rounds": {name: times["compact"].rounds for name, times in timings.items()},
            "gflops": {name: _rounded(rounds.gflops) for name, rounds in found.items()},
            "disturbed": {name: rounds.disturbed for name, rounds in found.items()},
            "spread": {
                model: {name: _rounded(times[model].spread) for name, times in timings.items()} for model in models
            },
        },
        "machine": machine,
    }


def _rounded(value: float) -> float:
    """Four significant figures: more is noise."""
    return float(f"{value:.4g}")


def quantile_batch(lengths: Sequence[int], size: int, vocab_size: int, seed: int = 0) -> PackedBatch:
    """A batch of `size` sequences of random tokens whose lengths are evenly spaced quantiles of `lengths`."""
    ordered = sorted(lengths)
    chosen = [ordered[int((i + 0.5) * len(ordered) / size)] for i in range(size)]
    generator = torch.Generator().manual_seed(seed)
    return from_lists([torch.randint(vocab_size, (length,), generator=generator).tolist() for length in chosen])


def main_output(output: CompactOutput) -> Tensor:
    """What the model is for: logits, start logits, an embedding, or the states where it has no head."""
    for value in (output.logits, output.start_logits, output.sentence_embedding, output.last_hidden_state):
        if value is not None:
            return value
    raise ValueError("the model has returned neither logits nor states")


class Differs(RuntimeError):
    """An engine computes something else than it should."""


def check_against_definition(model: CompactModel, **inputs: Any) -> None:
    """Raise Differs where the model gives something else on `inputs` than with the reference backends."""
    found = main_output(model(**inputs))
    with force_backend("reference"):
        expected = main_output(model(**inputs))
    difference = relative_difference(found, expected)
    tolerance = TOLERANCES[model.config.inference_precision]
    if not difference <= tolerance:
        raise Differs(
            f"{type(model).__name__} differs from its definition by {difference:.1e} of its largest output, allowed is "
            f"{tolerance:.0e}: not timed; see cofi_kernels.backends()"
        )


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected number; inf for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def _common_device(dense: CompactModel, compact: CompactModel) -> torch.device:
    devices = [next(model.parameters()).device for model in (dense, compact)]
    if devices[0] != devices[1]:
        raise ValueError(f"dense and compact must be on one device, got {devices[0]} and {devices[1]}")
    return devices[0]


def _vocabulary(*models: CompactModel) -> int:
    return min(model.config.vocab_size for model in models)


@contextmanager
def _inference(*models: CompactModel) -> Iterator[None]:
    """Without gradients and dropout; training modes are put back."""
    before = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model, mode in zip(models, before, strict=True):
            model.train(mode)
