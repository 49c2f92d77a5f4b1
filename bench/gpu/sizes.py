"""What is measured: BERT-base on 32 x 128 tokens in bf16; or, to try the program on a CPU, something tiny."""

from __future__ import annotations

from dataclasses import dataclass

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
    mnli_tokens: int = 39  # of a sentence, on average

    @property
    def tokens(self) -> int:
        return self.n_sequences * self.seqlen


SMOKE = Sizes(
    n_layers=2,
    n_heads=2,
    head_dim=8,
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
    mnli_tokens=4,
)
