"""Counter-based dropout of a step: every place in the model that drops has its own counter."""

from __future__ import annotations

import torch
from torch import Tensor

SITES_PER_STEP = 1024  # room for 256 layers of three sites, the embeddings and the head


def dropout_sites(state: Tensor, count: int) -> Tensor:
    """Counter states of the sites 0 .. count of one step, made on the device.

    state: int64 (2,) [seed, offset]; a step's offset must differ from every other step's.
    returns (count, 2) int64: site k is [seed, offset * SITES_PER_STEP + k].
    """
    if state.shape != (2,) or state.dtype != torch.int64:
        raise ValueError(f"dropout_state must be int64 of shape (2,), got {state.dtype} of {tuple(state.shape)}")
    offsets = state[1] * SITES_PER_STEP + torch.arange(count, device=state.device)
    return torch.stack((state[0].expand(count), offsets), dim=1)


def draw_dropout_state(device: torch.device) -> Tensor:
    """A state from torch's default generator of `device`, for training without a state of one's own."""
    return torch.randint(0, 1 << 52, (2,), dtype=torch.int64, device=device)
