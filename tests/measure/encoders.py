"""A small encoder, and one as pruning leaves it."""

from __future__ import annotations

from cofi.models import CompactConfig, CompactModel

SIZES = {"vocab_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
SIZES |= {"head_dim": 8, "max_position_embeddings": 24}
PRUNED = {0: {"num_attention_heads": 1, "intermediate_size": 0}, 1: {"num_attention_heads": 0, "intermediate_size": 5}}


def make_dense(**fields: object) -> CompactModel:
    return CompactModel(CompactConfig(hidden_size=32, **SIZES, **fields)).eval()


def make_compact(**fields: object) -> CompactModel:
    return CompactModel(CompactConfig(hidden_size=30, per_layer_config=PRUNED, **SIZES, **fields)).eval()
