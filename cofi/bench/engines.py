"""Engines of others on a CPU, each in its best configuration, running what `cofi.export --to onnx` writes."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cofi.models import CompactModel

# of input_ids and attention_mask, (B, S) int64, what is timed: a call that gives the graph's first output
Prepare = Callable[[Tensor, Tensor], Callable[[], Tensor]]


@dataclass(frozen=True)
class Engine:
    """load: reads a file of `exported`; needs: packages."""

    name: str
    load: Callable[[Path], Prepare]
    needs: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        return not_installed(self.needs)


def not_installed(packages: Sequence[str]) -> list[str]:
    """Those that this machine has not."""
    return [package for package in packages if find_spec(package) is None]


@contextlib.contextmanager
def exported(model: CompactModel) -> Iterator[Path]:
    """The model as an ONNX file, for as long as engines load it. Raises UserError where it cannot be written."""
    from cofi.export.onnx import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        files, _ = write_onnx(model, Path(folder) / "model.onnx")
        yield files[-1]


def _load_onnx_runtime(file: Path) -> Prepare:
    """All of its graph optimizations; our export is written so that they find the attention of every layer."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    output = session.get_outputs()[0].name

    def prepare(input_ids: Tensor, attention_mask: Tensor) -> Callable[[], Tensor]:
        values = _feed(names, input_ids, attention_mask)
        return lambda: torch.from_numpy(session.run([output], values)[0])

    return prepare


def _load_openvino(file: Path, precision: str) -> Prepare:
    """precision: by itself it takes bf16 where the processor has it, and then its fp32 is not what a user gets."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    names = {name for entry in compiled.inputs for name in entry.names}
    output, request = compiled.outputs[0], compiled.create_infer_request()

    def prepare(input_ids: Tensor, attention_mask: Tensor) -> Callable[[], Tensor]:
        values = _feed(names, input_ids, attention_mask)
        return lambda: torch.from_numpy(request.infer(values)[output])

    return prepare


def _feed(names: set[str], input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    values = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": torch.zeros_like(input_ids)}
    return {name: value.numpy() for name, value in values.items() if name in names}


_OPENVINO_NEEDS = ("onnx", "onnxruntime", "openvino")  # the export is checked in ONNX Runtime before it is used
ONNX_RUNTIME = Engine("ONNX Runtime", _load_onnx_runtime, ("onnx", "onnxruntime"))
OPENVINO = Engine("OpenVINO", functools.partial(_load_openvino, precision="f32"), _OPENVINO_NEEDS)
OPENVINO_BF16 = Engine("OpenVINO, bf16", functools.partial(_load_openvino, precision="bf16"), _OPENVINO_NEEDS)
