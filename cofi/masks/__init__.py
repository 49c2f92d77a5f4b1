"""Masks: kinds, learned gates, what they leave, expected sparsity and the Lagrangian that drives it."""

from cofi.masks.gates import INIT_MEANS, Gates
from cofi.masks.kinds import MASK_KINDS, MaskKind, parse_kinds
from cofi.masks.lagrangian import Lagrangian, SparsityRamp, ascent_optimizer
from cofi.masks.masks import LayerMasks, Masks
from cofi.masks.shape import ModelShape
from cofi.masks.sparsity import expected_sparsity
from cofi.masks.structure import Structure, kept_parameters, sparsity

__all__ = [
    "INIT_MEANS",
    "MASK_KINDS",
    "Gates",
    "Lagrangian",
    "LayerMasks",
    "MaskKind",
    "Masks",
    "ModelShape",
    "SparsityRamp",
    "Structure",
    "ascent_optimizer",
    "expected_sparsity",
    "kept_parameters",
    "parse_kinds",
    "sparsity",
]
