"""zs.pt: the masks that the official CoFi code saves beside its full-size weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofi.errors import UserError
from cofi.masks import MASK_KINDS, Masks, ModelShape
from cofi.models.checkpoint import load_plain

MASK_FILE = "zs.pt"
# official name: mask kind. Official shapes are [L,1,H,1,1], [L,1,1,I], [E], [L], [L]
_KINDS = {"head_z": "head", "intermediate_z": "int", "hidden_z": "hidden", "head_layer_z": "mha", "mlp_z": "ffn"}
_MAX_BYTES = 64 << 20  # masks of a 24-layer encoder are below 1 MiB
# what a pickled numpy array is made of, under the module names of numpy 1 and 2; builds arrays and nothing else
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_NUMPY_GLOBALS: list[Any] = [
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")},
]


def read_masks(file: Path, shape: ModelShape) -> Masks:
    """The masks of zs.pt, a dictionary of tensors or numpy arrays, in fp32. Loads plain data only, runs nothing.

    Raises UserError naming the file for anything else, and for masks that do not fit `shape` or leave [0, 1].
    """
    values = _load(file)
    if not isinstance(values, Mapping) or not values:
        raise UserError(
            f"{file} must hold the masks by name, got {type(values).__name__}. (The official code saves None for "
            "question answering; the masks are then only in l0_module.pt, a pickled object that is not loaded here.)"
        )
    unknown = sorted(str(name) for name in values if name not in _KINDS)
    if unknown:
        raise UserError(f"{file} may hold {', '.join(_KINDS)}, got {', '.join(unknown)}")
    return Masks.from_kinds({_KINDS[name]: _mask(file, name, value, shape) for name, value in values.items()})


def _mask(file: Path, name: str, value: Any, shape: ModelShape) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"{file}: {name} must be a tensor or an array of numbers, got {type(value).__name__}")
    expected = MASK_KINDS[_KINDS[name]].units(shape)
    if [n for n in value.shape if n != 1] != [n for n in expected if n != 1]:
        raise UserError(f"{file}: {name} must have shape {expected} by config.json, got {tuple(value.shape)}")
    mask = value.detach().to(torch.float32).reshape(expected)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise UserError(f"{file}: {name} must be within [0, 1], got {mask.min().item()} to {mask.max().item()}")
    return mask


def _load(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMPY_GLOBALS):
            return load_plain(file, _MAX_BYTES)
    except UserError as error:
        raise UserError(
            f"{error} (where it was made, save it again by torch.save({{name: tensor, ...}}, 'zs.pt'))"
        ) from error
