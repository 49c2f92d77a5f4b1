"""`python -m cofi.export DIR --to onnx`: write a model in a format for deployment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from cofi.cli import Parser
from cofi.cli import run as run_command
from cofi.export.formats import FORMATS, check_output, get_format
from cofi.export.source import find_model, read_source


def build_parser() -> Parser:
    formats = "; ".join(f"{name}: {format_.description}" for name, format_ in FORMATS.items())
    parser = Parser("python -m cofi.export", __doc__, f"Formats. {formats}.")
    parser.add_argument(
        "directory",
        metavar="DIR",
        help="a run, a saved CompactModel, a Hugging Face model, or a checkpoint of the official CoFi code "
        "(full-size weights with zs.pt, or cut weights)",
    )
    parser.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--output", metavar="PATH", help="by default model.onnx beside the model, or DIR-compact")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse(argv)
    format_ = get_format(options.to)
    directory = find_model(options.directory)
    output = format_.default_output(directory) if options.output is None else Path(options.output)
    check_output(format_, output, options.overwrite)  # before the work of loading
    source = read_source(directory)
    logging.disable_progress_bar()
    n_parameters = sum(p.numel() for p in source.model.parameters())
    print(f"{source.directory}: {source.kind}, {n_parameters:,} parameters")
    print(format_.write(source, output))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
