"""Pruning: fold masks into the weights, slice what is dead, and read what the official code has pruned."""

from cofi.prune.compact import compact, compact_transform
from cofi.prune.official import is_official, load_official

__all__ = ["compact", "compact_transform", "is_official", "load_official"]
