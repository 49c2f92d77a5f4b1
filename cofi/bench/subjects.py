"""What `python -m cofi.bench` compares: a model in our engine, and the same model in the engines installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cofi.bench.engines import ONNX_RUNTIME, OPENVINO, Engine, Prepare, exported
from cofi.errors import UserError
from cofi.files import read_json
from cofi.measure.speedup import Differs, check_against_definition, main_output, relative_difference
from cofi.models import CompactConfig, CompactModel, LoadedModel, in_precision, load_model
from cofi.models.checkpoint import CONFIG_FILE
from cofi.models.heads import HEADS
from cofi.models.locate import MODEL_OF_RUN, locate

COMPACT, DENSE = "compact", "dense"
HUGGING_FACE = "dense, transformers"
ENGINES = (ONNX_RUNTIME, OPENVINO)
TOLERANCE = 5e-3  # between engines, relative to the largest output: they may sum in any order, on GPUs in TF32

Run = Callable[[], object]


@dataclass(frozen=True)
class Inputs:
    """A batch without padding, as every engine takes it: input_ids and attention_mask, (B, S) int64."""

    input_ids: Tensor
    attention_mask: Tensor

    @property
    def as_dict(self) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


@dataclass(frozen=True)
class Subject:
    """One engine with one model.

    prepare: makes what is timed for one batch; everything that is done once for a model is done before
    check:   raises Differs where the engine's output on a batch is not that of the model
    gflop:   work of one batch of B sequences of S tokens in 1e9 floating point operations, as gflop(B, S)
    """

    name: str
    prepare: Callable[[Inputs], Run]
    check: Callable[[Inputs], None]
    gflop: Callable[[int, int], float]


@dataclass(frozen=True)
class Models:
    """The compact model, its dense original where there is one, and the directory that came from."""

    compact: CompactModel
    dense: CompactModel | None
    dense_directory: Path | None

    @property
    def vocab_size(self) -> int:
        return min(model.config.vocab_size for model in (self.compact, self.dense) if model is not None)

    @property
    def longest(self) -> int:
        """Tokens that both models can read."""
        configs = [model.config for model in (self.compact, self.dense) if model is not None]
        return min(config.longest for config in configs)


def load_models(directory: str, dense: str | None, device: torch.device) -> Models:
    """Load a model's or a run's directory, and the dense original: `dense`, or the teacher that a run has kept.

    Raises UserError where something cannot be loaded.
    """
    root, found = Path(directory), locate(directory)
    compact = _on(device, load_model(found).model)
    in_run = found == root / MODEL_OF_RUN
    if dense is None and in_run and (root / "teacher" / CONFIG_FILE).is_file():
        dense = str(root / "teacher")
    if dense is None:
        return Models(compact, None, None)
    original = _load_dense(dense, compact)
    return Models(compact, _on(device, original.model), original.tokenizer_path)


def _on(device: torch.device, model: CompactModel) -> CompactModel:
    torch.nn.Module.to(model, device)  # in place; transformers wraps `to` with a type hint of its own
    return model


def _load_dense(source: str, compact: CompactModel) -> LoadedModel:
    """With the head of the compact model, so that both do the same work."""
    like = compact.config
    num_labels = like.num_labels if HEADS[like.head].is_classifier else None
    problem = like.problem if like.head == "classification" else None
    return load_model(locate(source), head=like.head, num_labels=num_labels, problem_type=problem)


def find_subjects(models: Models, device: torch.device) -> tuple[list[Subject], list[str]]:
    """The subjects of this machine, the compact model first, and sentences about what is left out."""
    subjects, notes = [own_subject(COMPACT, models.compact)], []
    if device.type == "cpu" and models.compact.config.inference_precision == "fp32":
        subjects += [own_subject(f"{COMPACT}, {name}", in_precision(models.compact, name)) for name in ("bf16", "int8")]
    if models.dense is None or models.dense_directory is None:
        notes.append("No dense original to compare with: name it with --dense.")
    else:
        subjects.append(own_subject(DENSE, models.dense))
        if _is_ours(models.dense_directory):
            notes.append(f"No {HUGGING_FACE}: --dense must name the Hugging Face checkpoint for it.")
        else:
            subjects.append(hugging_face_subject(models.dense, models.dense_directory, device))
    engines = _installed(device, notes)
    if models.dense is not None:
        subjects += engine_subjects(DENSE, models.dense, engines)
    return subjects + engine_subjects(COMPACT, models.compact, engines), notes


def _installed(device: torch.device, notes: list[str]) -> list[Engine]:
    """The engines of others that can be compared here; `notes` say what keeps the rest out."""
    found = []
    for engine in ENGINES:
        if device.type != "cpu":
            notes.append(f"No {engine.name}: it is compared on the CPU only.")
        elif engine.missing:
            missing = ", ".join(engine.missing)
            notes.append(f"No {engine.name}: {missing} not installed (pip install {' '.join(engine.missing)}).")
        else:
            found.append(engine)
    return found


def own_subject(name: str, model: CompactModel) -> Subject:
    """The model in this package's kernels, checked against their definitions."""

    def check(inputs: Inputs) -> None:
        check_against_definition(model, **inputs.as_dict)

    return Subject(name, lambda inputs: lambda: model(**inputs.as_dict), check, _work_of(model))


def hugging_face_subject(dense: CompactModel, directory: Path, device: torch.device) -> Subject:
    """The stock encoder of transformers in eager PyTorch, with the attention it chooses (SDPA where it can)."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        stock: torch.nn.Module = AutoModel.from_pretrained(directory, dtype=torch.float32)
    except Exception as error:  # of whatever type, for fields of config.json that our own engine does not read
        raise UserError(f"--dense: transformers cannot load {directory}: {error}") from error
    stock = stock.to(device).eval()

    def check(inputs: Inputs) -> None:
        found = stock(**inputs.as_dict).last_hidden_state
        _compare(HUGGING_FACE, found, dense(**inputs.as_dict).last_hidden_state)

    return Subject(HUGGING_FACE, lambda inputs: lambda: stock(**inputs.as_dict), check, _work_of(dense))


def engine_subjects(word: str, model: CompactModel, engines: Sequence[Engine]) -> list[Subject]:
    """The exported graph of a model in each of the engines."""
    if not engines:
        return []
    with exported(model) as file:
        return [_engine_subject(f"{word}, {engine.name}", model, engine.load(file)) for engine in engines]


def _engine_subject(name: str, model: CompactModel, prepare: Prepare) -> Subject:
    def prepared(inputs: Inputs) -> Callable[[], Tensor]:
        return prepare(inputs.input_ids, inputs.attention_mask)

    def check(inputs: Inputs) -> None:
        _compare(name, prepared(inputs)(), main_output(model(**inputs.as_dict)))

    return Subject(name, prepared, check, _work_of(model))


def _compare(name: str, found: Tensor, expected: Tensor) -> None:
    difference = relative_difference(found, expected)
    if not difference <= TOLERANCE:
        raise Differs(
            f"{name} differs from our engine by {difference:.1e} of the largest output, allowed is {TOLERANCE:.0e}: "
            "not timed"
        )


def _is_ours(directory: Path) -> bool:
    return read_json(directory / CONFIG_FILE).get("model_type") == CompactConfig.model_type


def _work_of(model: CompactModel) -> Callable[[int, int], float]:
    layout, hidden = model.config.layout(), model.config.hidden_size

    def gflop(batch: int, length: int) -> float:
        """Matrix products of the encoder: two operations a multiplication."""
        width = sum(layout.heads) * layout.head_dim
        per_token = 2 * 4 * width * hidden + 2 * 2 * sum(layout.intermediate) * hidden
        attention = 2 * 2 * length * width
        return batch * length * (per_token + attention) / 1e9

    return gflop
