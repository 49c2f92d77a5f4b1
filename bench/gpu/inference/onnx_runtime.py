"""ONNX Runtime on CUDA: our exported graph, its transformer optimizations, fp16, inputs and outputs left on the GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bench.gpu.inference.subject import Subject

PROVIDER = "CUDAExecutionProvider"


def why_not(subject: Subject) -> str | None:
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    import onnxruntime

    if subject.device.type != "cuda" or PROVIDER not in onnxruntime.get_available_providers():
        return f"this onnxruntime has {', '.join(onnxruntime.get_available_providers())} alone"
    return None


def session_of(subject: Subject, providers: list[str]) -> Any:
    import onnx
    import onnxruntime
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from cofi.export.onnx import write_onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        files, _ = write_onnx(subject.model, Path(folder) / "model.onnx")
        graph = convert_float_to_float16(onnx.load(str(files[-1])), keep_io_types=True)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=providers)


def make(subject: Subject) -> Callable[[], Tensor]:
    """Bound to the tensors on the GPU: nothing is copied between calls."""
    session = session_of(subject, [PROVIDER])
    binding, ids = session.io_binding(), subject.batch.input_ids
    valid = torch.ones_like(ids) if subject.batch.valid is None else subject.batch.valid.long()
    given = {"input_ids": ids, "attention_mask": valid, "token_type_ids": torch.zeros_like(ids)}
    for entry in session.get_inputs():
        t = given[entry.name].contiguous()
        binding.bind_input(entry.name, "cuda", t.device.index or 0, "int64", tuple(t.shape), t.data_ptr())
    classes = cast(int, subject.model.config.num_labels)
    out = torch.empty(ids.shape[0], classes, device=ids.device)
    binding.bind_output("logits", "cuda", out.device.index or 0, "float32", tuple(out.shape), out.data_ptr())

    def run(bound: dict[str, Tensor] = given) -> Tensor:  # they live as long as this function
        session.run_with_iobinding(binding)
        return out

    return run
