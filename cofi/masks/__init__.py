"""Masks: kinds, learned gates, what they leave, expected sparsity and the Lagrangian that drives it."""

from cofi.masks.constraint import COUNTS, Constraint
from cofi.masks.fitting import Shifts, fit
from cofi.masks.gates import INIT_MEANS, ROUNDINGS, Gates
from cofi.masks.kinds import MASK_KINDS, MaskKind, parse_kinds
from cofi.masks.lagrangian import RAMPS, Lagrangian, SparsityRamp, SparsityStairs, ascent_optimizer
from cofi.masks.latency import LatencyModel, SpeedupTarget
from cofi.masks.masks import LayerMasks, Masks
from cofi.masks.prior import behind_those_kept, set_by_worth, start_by_worth, unit_weights
from cofi.masks.shape import ModelShape, evenly_spaced
from cofi.masks.sparsity import expected_sparsity
from cofi.masks.structure import Structure, kept_parameters, sparsity
from cofi.masks.target import TARGET_UNITS, PruningTarget, SparsityTarget

__all__ = [
    "COUNTS",
    "INIT_MEANS",
    "MASK_KINDS",
    "RAMPS",
    "ROUNDINGS",
    "Constraint",
    "Gates",
    "Lagrangian",
    "LatencyModel",
    "LayerMasks",
    "TARGET_UNITS",
    "MaskKind",
    "Masks",
    "ModelShape",
    "PruningTarget",
    "Shifts",
    "SparsityRamp",
    "SparsityStairs",
    "SparsityTarget",
    "SpeedupTarget",
    "Structure",
    "ascent_optimizer",
    "evenly_spaced",
    "behind_those_kept",
    "expected_sparsity",
    "fit",
    "kept_parameters",
    "parse_kinds",
    "sparsity",
    "set_by_worth",
    "start_by_worth",
    "unit_weights",
]
