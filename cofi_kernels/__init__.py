"""Kernels for pruning encoders: ops on tensors, each with a reference in plain PyTorch and faster backends.

`print(backends())` says what each op runs on here, and why not on something faster.
"""

from cofi_kernels.adamw.op import adamw_
from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.op import compact_encoder
from cofi_kernels.counter_rng.op import counter_dropout, counter_uniform
from cofi_kernels.expected_size.op import expected_size
from cofi_kernels.first_token_head.op import first_token_head
from cofi_kernels.hard_concrete.op import deterministic_masks, hard_concrete, keep_probability, live_indices
from cofi_kernels.layer_match.op import layer_match
from cofi_kernels.library import backends, force_backend
from cofi_kernels.masked_attention.op import masked_attention
from cofi_kernels.masked_ffn.op import masked_ffn
from cofi_kernels.masked_layer_norm.op import masked_layer_norm
from cofi_kernels.token_embedding.op import token_embedding

__version__ = "0.1.0"

__all__ = [
    "EncoderLayout",
    "adamw_",
    "backends",
    "compact_encoder",
    "counter_dropout",
    "counter_uniform",
    "deterministic_masks",
    "expected_size",
    "first_token_head",
    "force_backend",
    "hard_concrete",
    "keep_probability",
    "layer_match",
    "live_indices",
    "masked_attention",
    "masked_ffn",
    "masked_layer_norm",
    "token_embedding",
]
