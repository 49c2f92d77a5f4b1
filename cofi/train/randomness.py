"""Randomness without state: every draw is a function of the seed, a stream and the step, so a run can be repeated
from any step and no generator needs to be saved."""

from __future__ import annotations

import hashlib
import random

import torch
from torch import Tensor

from cofi.models.packed import sent


def derived_seed(seed: int, stream: str) -> int:
    """An independent 63-bit seed for a named stream."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def counter_state(seed: int, stream: str, step: int, device: torch.device) -> Tensor:
    """The int64 (2,) state [seed, offset] that cofi_kernels' counter-based generator takes."""
    return sent(torch.tensor([derived_seed(seed, stream), step], dtype=torch.int64), device)


def step_random(seed: int, stream: str, step: int) -> random.Random:
    """A host-side generator for one step of one stream."""
    return random.Random(derived_seed(seed, f"{stream}/{step}"))
