"""The format "onnx": build the graph, check it against the model in ONNX Runtime, and only then write it."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cofi.errors import UserError
from cofi.models import CompactModel

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-4  # largest difference, relative to the largest output; ORT's kernels differ by some 1e-6
_EXTERNAL_DATA_BYTES = 1 << 30  # protobuf files end at 2 GiB: larger models keep their weights in a second file


def write_onnx(model: CompactModel, output: Path) -> tuple[list[Path], float]:
    """Write the model to `output`, in fp32. Returns the files, which from 1 GiB on are `output`.data and `output`,
    and the largest relative difference of an output in ONNX Runtime.

    Nothing is left behind where the graph does not give the model's own outputs in ONNX Runtime.
    Raises UserError for that, for a missing package and for a path that cannot be written.
    """
    _require_packages()
    from cofi.export.graph import build_graph

    model = _fp32_copy(model)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            files = _save(build_graph(model), Path(scratch) / output.name, _weight_bytes(model))
            difference = check_file(files[-1], model)
            targets = [output.with_name(file.name) for file in files]
            for file, target in zip(files, targets, strict=True):
                os.replace(file, target)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    return targets, difference


def check_file(file: Path, model: CompactModel) -> float:
    """Compare an ONNX file with the model on random padded batches; returns the largest relative difference.

    Raises UserError where it is above TOLERANCE or no number.
    """
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for lengths in ((1,), (7, 3, 5)):
        inputs = _random_inputs(model, lengths)
        with torch.no_grad():
            expected = model(**inputs)
        names = [output.name for output in session.get_outputs()]
        found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        for name, value in zip(names, found, strict=True):
            difference = _difference(torch.from_numpy(np.asarray(value)), expected[name])
            if not difference <= TOLERANCE:
                raise UserError(
                    f"the ONNX graph does not compute what the model does: {name} differs by {difference:.1e} "
                    f"of its largest value, allowed is {TOLERANCE:.0e}; nothing was written"
                )
            worst = max(worst, difference)
    return worst


def _require_packages() -> None:
    needed = ("onnx", "onnxruntime")
    for package in needed:
        try:
            __import__(package)
        except ImportError as error:
            cure = f"pip install {' '.join(needed)}"
            raise UserError(f"the format onnx needs the package {package} ({error}): {cure}") from error


def _fp32_copy(model: CompactModel) -> CompactModel:
    """The model for comparison: on the CPU, in fp32, in inference mode; a copy, which may have the caller's type."""
    made = copy.deepcopy(model).float().cpu().eval()
    made.set_inference_precision("fp32")
    return made


def _weight_bytes(model: CompactModel) -> int:
    return sum(p.numel() * 4 for p in model.parameters())


def _save(proto: onnx.ModelProto, file: Path, weight_bytes: int) -> list[Path]:
    """Write and flush to the disk; the files in the order in which they must appear, the graph last."""
    import onnx

    files = [file]
    if weight_bytes < _EXTERNAL_DATA_BYTES:
        onnx.save_model(proto, file)
    else:
        data = file.with_name(file.name + ".data")
        onnx.save_model(proto, file, save_as_external_data=True, location=data.name, size_threshold=1024)
        files = [data, file]
    for written in files:
        with open(written, "rb+") as opened:
            os.fsync(opened.fileno())
    return files


def _random_inputs(model: CompactModel, lengths: tuple[int, ...]) -> dict[str, Tensor]:
    """A padded batch of these lengths, cut to what the model can read, every second row padded on the left."""
    config = model.config
    room = config.longest
    lengths = tuple(min(length, room) for length in lengths)
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), max(lengths))
    column = torch.arange(shape[1])
    rows = [column >= shape[1] - n if i % 2 else column < n for i, n in enumerate(lengths)]
    inputs = {
        "input_ids": torch.randint(config.vocab_size, shape, generator=generator),
        "attention_mask": torch.stack(rows).long(),
    }
    if config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.randint(config.type_vocab_size, shape, generator=generator)
    return inputs


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest number; what stands for padding must be equal and does not count as one."""
    if found.shape != expected.shape:
        return float("inf")
    padding = expected == torch.finfo(expected.dtype).min
    if not torch.equal(found[padding], expected[padding]):
        return float("inf")
    found, expected = found[~padding], expected[~padding]
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
