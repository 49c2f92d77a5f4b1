"""What every item is handed: sizes, the time that is left, what was found correct, and the record."""

from __future__ import annotations

import contextlib
import copy
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType

import torch

from bench.gpu.bench import Bench
from bench.gpu.inference import batches
from bench.gpu.inference.subject import Subject
from bench.gpu.record import Record
from bench.structures import Structure, build
from cofi.models import CompactModel

MNLI = "MNLI-like"


@dataclass(frozen=True)
class Sizes:
    """What is measured. timed: (structure, batch) in the order in which they are, the most wanted first."""

    structures: dict[str, Structure]
    lengths: dict[str, list[int]]
    timed: tuple[tuple[str, str], ...]
    dtypes: tuple[torch.dtype, ...]
    ragged: tuple[int, ...] = batches.RAGGED
    rounds: int = 15
    threads: int = 4
    calls: int = 12  # of a thread


@dataclass
class Clock:
    """Seconds that are left, and those that items still to come will take without any compilation."""

    budget: float
    reserved: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        return self.budget - self.elapsed

    @property
    def to_spare(self) -> float:
        return self.left - self.reserved

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Raise TimeoutError in the block when it takes longer. On the main thread; compilers are mostly Python."""

        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeoutError(f"took more than {seconds:.0f} s")

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


@dataclass
class Session:
    sizes: Sizes
    record: Record
    clock: Clock
    bench: Bench  # for the ceilings of the machine
    smoke: bool
    refused: dict[str, str] = field(default_factory=dict)  # rung -> why it must not be timed
    compile_s: dict[str, float] = field(default_factory=dict)  # rival -> how long its last compilation took

    @property
    def device(self) -> str:
        return self.bench.device

    @cached_property
    def models(self) -> dict[str, CompactModel]:
        """fp32, on the device."""
        torch.manual_seed(0)
        return {name: build(structure, self.device) for name, structure in self.sizes.structures.items()}

    def subject(self, name: str, batch: batches.Batch, dtype: torch.dtype) -> Subject:
        model = copy.deepcopy(self.models[name]).to(dtype)  # type: ignore[arg-type]
        return Subject(name, self.sizes.structures[name], model, batch.to(self.device), self.smoke)

    def batch(self, structure: str, name: str) -> batches.Batch:
        return batches.make(name, self.sizes.lengths[name], self.sizes.structures[structure].vocabulary)

    def floor_us(self, flops: float, n_bytes: float) -> float:
        return 1e6 * self.bench.floor(flops, n_bytes)
