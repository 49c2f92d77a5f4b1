"""Checkpoint directories as untrusted input: shapes are compared before memory is taken, nothing is executed."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cofi.errors import UserError
from cofi.files import read_json
from cofi.models.config import CompactConfig

CONFIG_FILE = "config.json"
_SAFETENSORS = "model.safetensors"
_PICKLED = "pytorch_model.bin"
# of transformers' configurations, which ends with an exception of its own for values that do not suit the model
_NOT_SUPPORTED = (
    "quantization_config",
    "layer_types",
    "attn_implementation",
    "_attn_implementation",
    "rope_parameters",
)
_MAX_SHARING = 2  # tensors of a file to its bytes: all of it tied would be there twice, embeddings and decoder are


class Checkpoint:
    """Tensors of a directory by name, from safetensors or (weights_only) pickled files, single or sharded.

    shapes: {tensor name: shape}, known without reading any tensor of a safetensors file
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stored: dict[str, tuple[Path, str]] = {}
        self._pickled: dict[tuple[Path, str], Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in _weight_files(directory):
            shapes = _safetensors_shapes(file) if file.suffix == ".safetensors" else self._load_pickled(file)
            for stored, shape in shapes.items():
                self.shapes[_current_name(stored)] = shape
                self._stored[_current_name(stored)] = file, stored

    def read(self, name: str) -> Tensor:
        """One tensor in fp32, in memory of its own. Raises UserError where it does not hold finite weights."""
        file, stored = self._stored[name]
        if (file, stored) in self._pickled:
            tensor = self._pickled[file, stored]
        else:
            with safe_open(file, framework="pt") as opened:
                tensor = opened.get_tensor(stored)
        if not tensor.is_floating_point():
            raise UserError(f"{file}: {stored} must hold floating point numbers, got {tensor.dtype}")
        tensor = tensor.to(torch.float32, copy=True)
        if tensor.numel() and not all(bound.isfinite() for bound in torch.aminmax(tensor)):
            raise UserError(f"{file}: {stored} must hold finite numbers, some are NaN or infinite")
        return tensor

    def _load_pickled(self, file: Path) -> dict[str, tuple[int, ...]]:
        state = _tensors(file)
        self._pickled |= {(file, name): tensor for name, tensor in state.items()}
        return {name: tuple(t.shape) for name, t in state.items()}


def _current_name(stored: str) -> str:
    """Checkpoints converted from TensorFlow, bert-base-uncased among them, call the two of a LayerNorm gamma, beta."""
    for old, new in ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")):
        if stored.endswith(old):
            return stored.removesuffix(old) + new
    return stored


def compact_config(values: Mapping[str, Any], source: Path) -> CompactConfig:
    """CompactConfig from the values of a file. Raises UserError naming the file and the field."""
    try:
        return CompactConfig.from_dict(dict(values))
    except Exception as error:  # transformers' checks raise types of their own for bad values
        raise UserError(f"{source}: {error}") from error


def _weight_files(directory: Path) -> list[Path]:
    for single in (_SAFETENSORS, _PICKLED):
        if (directory / single).is_file():
            return [directory / single]
        index = directory / f"{single}.index.json"
        if index.is_file():
            return _shards(index)
    raise UserError(f"{directory} has no weights: expected {_SAFETENSORS} or {_PICKLED}, single or with an index")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index} must hold a weight_map of file names")
    files = []
    for name in sorted(set(weight_map.values())):
        file = index.parent / name
        if Path(name).name != name or file.suffix not in (".safetensors", ".bin"):
            raise UserError(f"{index} must name weight files of its own directory, got {name!r}")
        if not file.is_file():
            raise UserError(f"{index} names {name}, which is not there")
        files.append(file)
    return files


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or no safetensors file: {error}") from error


def load_plain(file: Path, max_bytes: int | None = None) -> Any:
    """What torch.save wrote of tensors and plain values; nothing of it is run. Raises UserError naming the file.

    max_bytes: the most it may unpack to; by default its own size, so that it cannot be compressed. The tensors may be
    read and copied: they take at most twice what it unpacks to
    """
    try:
        limit, unpacked = file.stat().st_size if max_bytes is None else max_bytes, _unpacked_bytes(file)
        if unpacked > limit:
            raise UserError(f"{file} must unpack to at most {limit} bytes, got {unpacked}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's doubts about a file it then refuses
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_tensors(file, content, unpacked)
        return content
    except UserError:
        raise
    except Exception as error:  # noise makes the unpickler raise anything, KeyError among others
        # torch's own words for pickled objects advise to load them anyway
        is_pickle = isinstance(error, pickle.UnpicklingError)
        own = str(error).partition("\n")[0].partition(". ")[0]
        reason = "it holds other objects, which may run code, or is damaged" if is_pickle else own
        raise UserError(f"{file} cannot be loaded as plain tensors: {reason} ({type(error).__name__})") from error


def _unpacked_bytes(file: Path) -> int:
    size = file.stat().st_size
    if not zipfile.is_zipfile(file):
        return size
    with zipfile.ZipFile(file) as archive:
        return max(size, sum(entry.file_size for entry in archive.infolist()))


def _check_tensors(file: Path, content: Any, unpacked: int) -> None:
    """Raise UserError where a copy of the tensors would take more memory than a file of `unpacked` bytes explains.

    Few stored bytes are any number of tensors of any shape: by strides of 0, or as views of one storage.
    """
    total = 0
    for name, tensor in _named_tensors(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UserError(f"{file}: {name} must be a dense tensor, got {tensor.layout} on {tensor.device}")
        n_bytes = math.prod(tensor.shape) * tensor.element_size()
        stored = tensor.untyped_storage().nbytes()
        if n_bytes > stored:
            raise UserError(
                f"{file}: {name} of shape {tuple(tensor.shape)} must have {n_bytes} bytes in the file, got {stored}"
            )
        total += n_bytes
    if total > _MAX_SHARING * unpacked:
        raise UserError(
            f"{file}: its tensors must have at most {_MAX_SHARING * unpacked} bytes together, "
            f"{_MAX_SHARING} times those of the file, which tied weights may share, got {total}"
        )


def _named_tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested containers with their nearest name. A container is entered once: it may hold itself."""
    entered: set[int] = set()
    left: list[tuple[str, Any]] = [("a tensor", content)]
    while left:
        name, value = left.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (Mapping, list, tuple, set)) and id(value) not in entered:
            entered.add(id(value))
            named = value.items() if isinstance(value, Mapping) else ((name, each) for each in value)
            left.extend((key if isinstance(key, str) else name, each) for key, each in named)


def _tensors(file: Path) -> dict[str, Tensor]:
    state = load_plain(file)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{file} must hold a dictionary of tensors")
    return state


def check_directory(path: Any, build: Callable[[CompactConfig], nn.Module]) -> None:
    """Compare config.json of a saved CompactModel with the shapes of its weights, before any memory is taken.

    Anything that is not a local directory is left to transformers. Raises UserError naming the first mismatch.
    """
    directory = Path(path)
    if not directory.is_dir():
        return
    config = compact_config(saved_config(directory), directory / CONFIG_FILE)
    with torch.device("meta"):
        expected = {name: tuple(p.shape) for name, p in build(config).state_dict().items()}
    compare_shapes(directory, expected, Checkpoint(directory).shapes)


def saved_config(directory: Path) -> dict[str, Any]:
    """config.json of a directory that CompactModel.save_pretrained wrote. Raises UserError for another model type."""
    values = read_json(directory / CONFIG_FILE)
    if values.get("model_type") != CompactConfig.model_type:
        raise UserError(
            f"{directory / CONFIG_FILE} must have model_type {CompactConfig.model_type!r}, "
            f"got {values.get('model_type')!r}; cofi.models.load_model reads Hugging Face's models"
        )
    for name in _NOT_SUPPORTED:
        if name in values:
            raise UserError(f"{directory / CONFIG_FILE}: {name} is not supported")
    if not isinstance(values.get("dtype"), (str, NoneType)):
        raise UserError(f"{directory / CONFIG_FILE}: dtype must be the name of one, got {values['dtype']!r}")
    return values


def compare_shapes(
    directory: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise UserError naming the first tensor that is missing, of another shape, or not expected."""
    for name, shape in expected.items():
        if name not in found:
            raise UserError(f"{directory} lacks the tensor {name} of shape {shape}")
        if found[name] != shape:
            raise UserError(f"{directory}: {name} must have shape {shape} by {CONFIG_FILE}, got {found[name]}")
    unexpected = sorted(found.keys() - expected.keys())
    if unexpected:
        raise UserError(f"{directory} holds {unexpected[0]}, which the model of its {CONFIG_FILE} does not have")


def check_loading(source: Any, info: Mapping[str, Any]) -> None:
    """Raise UserError where transformers' loading report is not clean."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info.get(problem) or ())
        if names:
            raise UserError(f"{source} does not fit the model: {problem.replace('_', ' ')} {', '.join(names[:4])}")
