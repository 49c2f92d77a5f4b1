"""From the name of a model to a local directory with its files."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from cofi.errors import UserError

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)
# exact names, as the patterns match across folders: ONNX and other copies in sub-folders stay where they are
_WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_SENTENCE_FILES = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
_FILES = ["config.json", *_WEIGHT_FILES, *TOKENIZER_FILES, *_SENTENCE_FILES]
_PICKLED_FILES = ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]


def local_directory(id_or_dir: str | Path, revision: str | None = None) -> Path:
    """The directory itself, or where the hub's files are cached. Pickled weights come only where there are no others.

    Raises UserError where there is neither, or the hub cannot be reached and the cache does not have it.
    """
    path = Path(id_or_dir).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"model must be a directory or a hub id, got the file {path}")
    name = str(id_or_dir)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"model directory {name} does not exist")
    directory = _download(name, revision, _FILES)
    if not any(directory.glob("model*.safetensors")):
        directory = _download(name, revision, [*_FILES, *_PICKLED_FILES])
    return directory


def _download(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise UserError(f"model {repo_id!r} is neither a directory nor a hub id") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"model {repo_id!r} is no directory, and the hub gave no such model: {reason[0]}") from error
