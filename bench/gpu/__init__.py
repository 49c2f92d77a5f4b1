"""The whole GPU benchmark as one command: python -m bench.gpu."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported: a smoke run needs no GPU
