"""The files by which Sentence Transformers knows how a model makes an embedding of a sentence: read, and written.

modules.json lists what the states go through. Supported is what most models do: pooling by the mean of all tokens or
the first one, then normalizing. Vectors that were not normalized have the same cosines; their lengths are lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cofi.errors import UserError
from cofi.files import read_json, read_json_list

if TYPE_CHECKING:
    from cofi.models.config import CompactConfig

MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
_POOLING_DIRECTORY = "1_Pooling"
_MODES = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token"}  # of the pooling's config.json
_KNOWN = ("Transformer", "Pooling", "Normalize")


def read_pooling(directory: Path) -> str:
    """How the model in `directory` pools: by the "mean", which is Sentence Transformers' own default, or the "first".

    Raises UserError where it does something else.
    """
    file = directory / MODULES_FILE
    if not file.is_file():
        return "mean"
    pooling = [place for kind, place in _modules(file) if kind == "Pooling"]
    if len(pooling) != 1:
        raise UserError(f"{file} must list one module Pooling, got {len(pooling)}")
    return _mode(directory / pooling[0] / "config.json")


def _modules(file: Path) -> list[tuple[str, str]]:
    """Class and directory of each module."""
    found = []
    for entry in read_json_list(file):
        values = entry if isinstance(entry, Mapping) else {}
        kind, place = str(values.get("type")).rpartition(".")[2], values.get("path")
        if kind not in _KNOWN:
            raise UserError(f"{file} must list modules of {', '.join(_KNOWN)}, got {values.get('type')!r}")
        if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise UserError(f"{file}: path must name a directory beside it, got {place!r}")
        found.append((kind, place))
    return found


def _mode(file: Path) -> str:
    values = read_json(file)
    on = [name for name, value in values.items() if name.startswith("pooling_mode_") and value is True]
    modes = [mode for mode, name in _MODES.items() if on == [name]]
    if isinstance(values.get("pooling_mode"), str):  # a newer format has one word
        modes = [{"cls": "first"}.get(values["pooling_mode"], values["pooling_mode"])]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UserError(f"{file} must pool by the mean of the tokens or the first token (cls), got {on or values}")
    return modes[0]


def read_max_seq_length(directory: Path) -> int | None:
    """Tokens that the model in `directory` cuts a text to, where a file says so. Raises UserError."""
    file = directory / LENGTH_FILE
    value = read_json(file).get("max_seq_length") if file.is_file() else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"{file}: max_seq_length must be a whole number from 1, got {value!r}")
    return value


def write_sentence_files(config: CompactConfig, directory: Path) -> None:
    """What makes `SentenceTransformer(directory)` compute the embedding of the model there, after `import cofi`.

    A text is cut where the original cuts it, else at what the model can read.
    """
    kinds = (("Transformer", ""), ("Pooling", _POOLING_DIRECTORY), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, place) in enumerate(kinds)
    ]
    pooling: dict[str, Any] = {"word_embedding_dimension": config.hidden_size}
    pooling |= {name: config.pooling == mode for mode, name in _MODES.items()}
    longest = config.longest
    (directory / _POOLING_DIRECTORY).mkdir()
    (directory / "2_Normalize").mkdir()
    files = {
        MODULES_FILE: modules,
        f"{_POOLING_DIRECTORY}/config.json": pooling,
        LENGTH_FILE: {"max_seq_length": min(config.max_seq_length or longest, longest), "do_lower_case": False},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
