"""Pruning: fold masks into the weights, slice what is dead, and read what the official code has pruned."""

from cofi.prune.compact import compact, compact_transform
from cofi.prune.official import load_official

__all__ = ["compact", "compact_transform", "load_official"]
