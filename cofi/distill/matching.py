"""Which student layer learns from which teacher layer (CoFi section 3.2, and the variants of its official code).

A strategy picks a few teacher layers on the host and aligns each with a student layer on the device, without reading
anything back. Layers count from 0; L_t and L_s are the numbers of teacher and student layers. Only live student
layers are matched: the state after a removed layer is the state before it.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cofi.masks import evenly_spaced

UNMATCHED = -1  # in an alignment: no student layer for this teacher layer, which then adds nothing to the loss


def teacher_layers(n_layers: int, count: int = 4) -> tuple[int, ...]:
    """`count` evenly spaced layers of `n_layers`, the last one included; all of them where there are fewer.

    12 -> 2, 5, 8, 11 (TinyBERT's and CoFi's choice), 6 -> 1, 2, 4, 5. Raises ValueError for sizes below 1.
    """
    return evenly_spaced(n_layers, count)


class Strategy(ABC):
    """A matching between a teacher of `n_teacher_layers` and a student of `n_student_layers`."""

    def __init__(self, n_teacher_layers: int, n_student_layers: int, count: int = 4) -> None:
        if n_student_layers < 1:
            raise ValueError(f"n_student_layers must be at least 1, got {n_student_layers}")
        self.n_teacher_layers = n_teacher_layers
        self.n_student_layers = n_student_layers
        self.spaced = teacher_layers(n_teacher_layers, count)

    def pick_teacher_layers(self, rng: random.Random) -> tuple[int, ...]:
        """The teacher layers of this step, ascending. `rng` is drawn from by the random strategies only."""
        return self.spaced

    @property
    def candidates(self) -> tuple[int, ...]:
        """All teacher layers that some step may pick."""
        return self.spaced

    @abstractmethod
    def align(self, mse: Tensor, live: Tensor) -> Tensor:
        """Student layer for each picked teacher layer, int64, UNMATCHED where there is none.

        mse:  (number of picked layers, L_s), mean squared errors, detached
        live: (L_s,) bool on the same device
        """


class Fixed(Strategy):
    """The student layer at the teacher layer's depth (scaled where the depths differ), if it is alive."""

    def align(self, mse: Tensor, live: Tensor) -> Tensor:
        picked = _spaced_on_device(self.n_teacher_layers, len(self.spaced), mse.device)
        same_depth = -(-(picked + 1) * self.n_student_layers // self.n_teacher_layers) - 1
        return torch.where(live[same_depth], same_depth, UNMATCHED)


class Nearest(Strategy):
    """The live student layer with the smallest error, in any order."""

    def align(self, mse: Tensor, live: Tensor) -> Tensor:
        nearest = _errors_of(mse, live).argmin(1)
        return torch.where(live.any(), nearest, UNMATCHED)


class NearestInOrder(Strategy):
    """From the top down: the nearest live student layer below the previous match, or that match again if none is."""

    def align(self, mse: Tensor, live: Tensor) -> Tensor:
        layers = torch.arange(self.n_student_layers, device=mse.device)
        nothing_yet = previous = torch.full((), self.n_student_layers, device=mse.device)
        matches = []
        for errors in mse.flip(0).unbind():
            allowed = live & (layers < previous)
            previous = torch.where(allowed.any(), _errors_of(errors, allowed).argmin(), previous)
            matches.append(previous)
        alignment = torch.stack(matches[::-1])
        return torch.where(alignment == nothing_yet, UNMATCHED, alignment)


class RandomInOrder(NearestInOrder):
    """NearestInOrder with teacher layers drawn anew for each step, the lowest raised to the first spaced layer.

    The official code keeps draws in which that raise makes two layers equal or puts them out of order; here they are
    drawn again, so that the layers are distinct and ascending.
    """

    def pick_teacher_layers(self, rng: random.Random) -> tuple[int, ...]:
        while True:
            drawn = sorted(rng.sample(range(self.n_teacher_layers), len(self.spaced)))
            drawn[0] = max(drawn[0], self.spaced[0])
            if len(drawn) == 1 or drawn[0] < drawn[1]:
                return tuple(drawn)

    @property
    def candidates(self) -> tuple[int, ...]:
        return tuple(range(self.spaced[0], self.n_teacher_layers))


class RandomWindow(NearestInOrder):
    """NearestInOrder with one teacher layer drawn from each of equal windows, raised as in RandomInOrder (RAIL-KD).

    The windows end at the spaced layers, so the raise makes the first pick the first spaced layer at every step.
    """

    def pick_teacher_layers(self, rng: random.Random) -> tuple[int, ...]:
        starts = (0, *(last + 1 for last in self.spaced[:-1]))
        drawn = [rng.choice(range(start, last + 1)) for start, last in zip(starts, self.spaced, strict=True)]
        return (max(drawn[0], self.spaced[0]), *drawn[1:])

    @property
    def candidates(self) -> tuple[int, ...]:
        return tuple(range(self.spaced[0], self.n_teacher_layers))


STRATEGIES: dict[str, type[Strategy]] = {
    "fixed": Fixed,
    "nearest": Nearest,
    "nearest_in_order": NearestInOrder,
    "random_in_order": RandomInOrder,
    "random_window": RandomWindow,
}


def _spaced_on_device(n_layers: int, count: int, device: torch.device) -> Tensor:
    """`teacher_layers` computed on the device: a copy from the host would break the capture of a CUDA graph."""
    return -(-n_layers * torch.arange(1, count + 1, device=device) // count) - 1


def _errors_of(errors: Tensor, allowed: Tensor) -> Tensor:
    """Errors with infinity where a layer may not be matched. An overflowed error still wins over those."""
    return torch.where(allowed, errors.clamp(max=torch.finfo(errors.dtype).max), float("inf"))
