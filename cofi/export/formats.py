"""The formats of the command: one function and one line in FORMATS each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cofi.data.features import VOCABULARY_FILES, load_tokenizer
from cofi.errors import UserError
from cofi.export.onnx import write_onnx
from cofi.export.source import Source
from cofi.files import read_json
from cofi.models import CompactConfig, save_model
from cofi.models.checkpoint import CONFIG_FILE


@dataclass(frozen=True)
class Format:
    """One output format.

    default_output: where to write, from the directory of the model
    check_replaceable: raises UserError where what is at the output is nothing that this format writes
    write: writes the model whole or not at all and returns a line that says what was written
    """

    description: str
    default_output: Callable[[Path], Path]
    check_replaceable: Callable[[Path], None]
    write: Callable[[Source, Path], str]


def get_format(name: str) -> Format:
    """Raises UserError listing the formats for a name that is none."""
    if name not in FORMATS:
        raise UserError(f"--to must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def check_output(format_: Format, output: Path, overwrite: bool) -> None:
    """Raise UserError where `output` cannot be written to or holds something the user gave no leave to replace."""
    try:
        has_place, exists = output.parent.is_dir(), output.exists()
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from error
    if not has_place:
        raise UserError(f"--output {output}: {output.parent} is not a directory")
    if exists and not overwrite:
        raise UserError(f"--output {output} exists: give --overwrite to replace it")
    if exists:
        format_.check_replaceable(output)


def _check_file(output: Path) -> None:
    if not output.is_file():
        raise UserError(f"--output {output} is no file and is not replaced: name another")


def _check_model_directory(output: Path) -> None:
    # a directory is replaced whole: only one that holds what this format writes may go
    config = output / CONFIG_FILE
    if not config.is_file() or read_json(config).get("model_type") != CompactConfig.model_type:
        raise UserError(f"--output {output} holds no compact model and is not replaced: name another directory")


def _write_onnx(source: Source, output: Path) -> str:
    files, difference = write_onnx(source.model, output)
    size = sum(file.stat().st_size for file in files) / 1e6
    names = " and ".join(map(str, files))
    return f"{names}: {size:.1f} MB, outputs equal to {difference:.0e} of the largest in ONNX Runtime"


def _write_compact(source: Source, output: Path) -> str:
    has_tokenizer = any((source.directory / name).is_file() for name in VOCABULARY_FILES)
    # loaded and not copied: the files may leave its class to the model type, which is another one now
    tokenizer = load_tokenizer(source.directory) if has_tokenizer else None
    try:
        save_model(source.model, tokenizer, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    return f"{output}: {sum(file.stat().st_size for file in output.iterdir()) / 1e6:.1f} MB"


FORMATS: dict[str, Format] = {
    "onnx": Format(
        "ONNX graph in fp32 with dynamic batch and length, checked against the model in ONNX Runtime",
        default_output=lambda directory: directory / "model.onnx",
        check_replaceable=_check_file,
        write=_write_onnx,
    ),
    "compact": Format(
        "directory for CompactModel.from_pretrained, with the tokenizer; turns official CoFi checkpoints into ours",
        default_output=lambda directory: directory.resolve().with_name(directory.resolve().name + "-compact"),
        check_replaceable=_check_model_directory,
        write=_write_compact,
    ),
}
