"""What is measured: BERT-base on 32 x 128 tokens in bf16; or, to try the program on a CPU, something tiny."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Sizes:
    """L layers, H heads of size D, E hidden, I intermediate; B sequences of S tokens."""

    n_layers: int = 12
    n_heads: int = 12
    head_dim: int = 64
    hidden: int = 768
    intermediate: int = 3072
    n_sequences: int = 32
    seqlen: int = 128
    n_matched: int = 4
    vocabulary: int = 30522
    dtype: torch.dtype = torch.bfloat16
    live: tuple[float, ...] = (1.0, 0.6, 0.4, 0.2, 0.05)
    rounds: int = 30
    tracked_steps: int = 200
    mnli_rows: int = 392_702
    mnli_longest: int = 128
    mnli_batches: int = 32  # of n_sequences sentences each, taken in turns as often as `mnli_passes` says
    mnli_passes: int = 5

    @property
    def tokens(self) -> int:
        return self.n_sequences * self.seqlen


# for a CPU, where most of it runs on references; a head dim that the attention kernels take, as everywhere
SMOKE = Sizes(
    n_layers=2,
    n_heads=2,
    head_dim=32,
    hidden=16,
    intermediate=24,
    n_sequences=3,
    seqlen=5,
    n_matched=2,
    vocabulary=50,
    dtype=torch.float32,
    live=(1.0, 0.2),
    rounds=2,
    tracked_steps=3,
    mnli_rows=64,
    mnli_longest=14,
    mnli_batches=2,
    mnli_passes=2,
)

# What a sanitizer should see: sequences of several tiles, sums of 15 steps and more (of 64, as the tiles of bf16 are
# deep), which programs share by parts and counters, and no size that a tile divides.
SMOKE_ON_GPU = replace(
    SMOKE,
    n_heads=5,
    hidden=1000,
    intermediate=1000,
    n_sequences=14,
    seqlen=67,
    dtype=torch.bfloat16,
    mnli_longest=128,
)


def smoke_sizes() -> Sizes:
    return SMOKE_ON_GPU if torch.cuda.is_available() else SMOKE
