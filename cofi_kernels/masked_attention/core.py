"""Launchers of the compiled attention core: fp32, all live heads of all sequences in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_threshold
from cofi_kernels.native import address, load_native
from cofi_kernels.packing import check_bounds

if TYPE_CHECKING:
    from cofi_kernels.masked_attention.gathered import Sizes


def is_compiled(x: Tensor) -> bool:
    """Whether the core can be used for tensors like `x`; otherwise groups of sequences are attended to by PyTorch."""
    return x.dtype == torch.float32 and load_native() is not None


class Core:
    """Attention within `cu_seqlens`, with dropout. Raises ValueError where cu_seqlens does not fit the tokens."""

    def __init__(self, sizes: Sizes, cu_seqlens: Tensor, dropout_p: float, dropout_state: Tensor | None) -> None:
        check_bounds(cu_seqlens.tolist(), sizes.max_seqlen, sizes.n_tokens)
        bounds = cu_seqlens.contiguous()
        state = dropout_state.contiguous() if dropout_state is not None and dropout_p > 0.0 else None
        self._kept_alive = (bounds, sizes.live, state)  # whose addresses are in _problem
        self._problem = {
            "bounds": bounds.data_ptr(),
            "sequences": cu_seqlens.numel() - 1,
            "tokens": sizes.n_tokens,
            "heads": sizes.n_live,
            "head_dim": sizes.head_dim,
            "max_seqlen": sizes.max_seqlen,
            "numbers": address(sizes.live),
            "state": address(state),
            "threshold": keep_threshold(dropout_p),
            "scale": 1.0 / (1.0 - dropout_p),
            "threads": torch.get_num_threads(),
        }

    def forward(self, qkv: Tensor, context: Tensor, lse: Tensor) -> None:
        """Write context (T, n_live, D) and the first n_live rows of lse (H * T,) from qkv (T, 3, n_live, D)."""
        load_native().attention(qkv.data_ptr(), context=context.data_ptr(), lse=lse.data_ptr(), **self._problem)

    def backward(self, qkv: Tensor, context: Tensor, lse: Tensor, dcontext: Tensor, dqkv: Tensor) -> None:
        """Write dqkv (T, 3, n_live, D) from dcontext (T, n_live, D) and what the forward left."""
        load_native().attention_backward(
            qkv.data_ptr(),
            context=context.data_ptr(),
            lse=lse.data_ptr(),
            dcontext=dcontext.data_ptr(),
            dqkv=dqkv.data_ptr(),
            **self._problem,
        )
