"""Load an encoder of Hugging Face's formats, or one of ours, as a `CompactModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cofi.errors import UserError
from cofi.files import read_json
from cofi.models.checkpoint import CONFIG_FILE, Checkpoint, compact_config, saved_config
from cofi.models.class_names import class_names, label_fields, output_order
from cofi.models.config import CompactConfig
from cofi.models.config_values import PROBLEM_TYPES, check_labels, problem_of
from cofi.models.families import FAMILIES, Family, Source
from cofi.models.families.family import linear
from cofi.models.heads import HEADS
from cofi.models.hub import local_directory
from cofi.models.model import CompactModel
from cofi.models.sentence_files import read_max_seq_length, read_pooling

_OUTPUTS = ("classifier.", "qa_outputs.")
_HEAD_MODULES = ("pooler.", *_OUTPUTS)
_FIELDS_OF_HEAD = ("head", "problem_type", "id2label", "label2id", "architectures")


@dataclass(frozen=True)
class LoadedModel:
    """model: in eval mode, fp32, on the CPU; tokenizer_path: the directory it came from;
    head_trained: False where the model has no head, or one freshly initialised."""

    model: CompactModel
    tokenizer_path: Path
    head_trained: bool


@dataclass(frozen=True)
class _Head:
    """A task head, as asked for or as found in a checkpoint. label_names: that were asked for."""

    kind: str
    num_labels: int | None = None
    problem_type: str | None = None
    id2label: Mapping[Any, Any] | None = None
    label_names: Sequence[str] | None = None

    @property
    def problem(self) -> str:
        """As `CompactConfig.problem`."""
        return problem_of(self.problem_type, self.num_labels)


def load_model(
    id_or_dir: str | Path,
    *,
    head: str | None = None,
    num_labels: int | None = None,
    problem_type: str | None = None,
    label_names: Sequence[str] | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> LoadedModel:
    """Load a directory or a hub id of BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ELECTRA, or a saved CompactModel.

    head: "none", "classification", "token_classification", "question_answering", "embedding", which has no weights and
        pools as the files of Sentence Transformers beside the model say, or None for the one the checkpoint was
        trained with
    num_labels: of a classification head, of sequences or tokens; problem_type ("classification", "multi_label" or
        "regression"): of that of sequences, which either of them means where `head` is None. None takes the
        checkpoint's. A trained head is used only where it fits; otherwise a new one is initialised from `seed`.
    label_names: classes of the task; a trained head fits in any order of them (`class_names.output_order`)
    Raises UserError for what cannot be read or is not supported, ValueError for a bad argument.
    """
    wanted = _wanted_head(head, num_labels, problem_type, label_names)
    directory = local_directory(id_or_dir, revision)
    values = read_json(directory / CONFIG_FILE)
    model_type = values.get("model_type")
    if model_type == CompactConfig.model_type:
        return _load_compact(directory, wanted, seed)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join([*FAMILIES, CompactConfig.model_type])
        raise UserError(f"{directory / CONFIG_FILE}: model_type must be one of {known}, got {model_type!r}")
    return _load_family(directory, FAMILIES[model_type], values, wanted, seed)


def _wanted_head(
    kind: str | None, num_labels: int | None, problem_type: str | None, label_names: Sequence[str] | None
) -> _Head | None:
    if kind is not None and kind not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {kind!r}")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}")
    if kind is None and not (num_labels is None and problem_type is None and label_names is None):
        kind = "classification"
    if kind is None:
        return None
    problem_type = PROBLEM_TYPES.get(problem_type) if problem_type else None
    return _Head(kind, num_labels, problem_type, label_names=label_names)


def _choose_head(wanted: _Head | None, trained: _Head) -> tuple[_Head, bool]:
    """The head to build and whether the trained one is it."""
    if wanted is None or _fits(wanted, trained):
        return trained, trained.kind != "none"
    return _with_defaults(wanted), wanted.kind == "embedding"  # of which nothing is trained


def _fits(wanted: _Head, trained: _Head) -> bool:
    if wanted.kind != trained.kind or not HEADS[wanted.kind].is_classifier:
        return wanted.kind == trained.kind
    same_problem = wanted.problem_type is None or wanted.problem == trained.problem
    return wanted.num_labels in (None, trained.num_labels) and same_problem and _same_classes(wanted, trained)


def _same_classes(wanted: _Head, trained: _Head) -> bool:
    """Also where the checkpoint names none: its outputs are then taken to be in order."""
    if wanted.label_names is None or not trained.id2label:
        return True
    return output_order(class_names(trained.id2label), wanted.label_names) is not None


def _with_defaults(head: _Head) -> _Head:
    n = head.num_labels if head.num_labels is not None else 1 if head.problem == "regression" else 2
    return _Head(head.kind, n, head.problem_type)


def _head_fields(head: _Head, directory: Path) -> dict[str, Any]:
    """CompactConfig fields of a head. Raises UserError where the label names are not those of its outputs, or a model
    makes its sentence embeddings in a way that is not supported."""
    if head.kind == "embedding":
        length = read_max_seq_length(directory)
        return {"head": head.kind, "pooling": read_pooling(directory), "max_seq_length": length}
    if not HEADS[head.kind].is_classifier:
        return {"head": head.kind}
    fields = {"head": head.kind, "problem_type": head.problem_type, "num_labels": head.num_labels}
    return fields if head.id2label is None else fields | label_fields(head.id2label, head.num_labels or 0)


def _load_family(
    directory: Path, family: Family, values: Mapping[str, Any], wanted: _Head | None, seed: int
) -> LoadedModel:
    checkpoint = Checkpoint(directory)
    prefix = family.prefix if any(name.startswith(family.prefix) for name in checkpoint.shapes) else ""
    head, trained = _choose_head(wanted, _trained_head(family, values, prefix, checkpoint))
    try:
        check_labels(values.get("num_labels"), None)  # transformers would make a name for each
        fields = family.fields(values)
        fields |= _head_fields(head, directory) | _pooler_fields(family, head, prefix, checkpoint)
        fields["classifier_dropout"] = family.head_dropout(values, head.kind)
    except (UserError, ValueError) as error:
        raise UserError(f"{directory / CONFIG_FILE}: {error}") from error
    config = compact_config(fields | {"source_model_type": family.model_type}, directory / CONFIG_FILE)
    surplus = f"{prefix}{family.layers}.{config.num_hidden_layers}."
    if any(name.startswith(surplus) for name in checkpoint.shapes):
        raise UserError(f"{directory} has more layers than the {config.num_hidden_layers} of its {CONFIG_FILE}")
    sources = family.sources(prefix, config.num_hidden_layers) | _head_sources(family, head, trained, prefix)
    return LoadedModel(_fill(config, checkpoint, sources, seed, () if trained else _HEAD_MODULES), directory, trained)


def _trained_head(family: Family, values: Mapping[str, Any], prefix: str, checkpoint: Checkpoint) -> _Head:
    """The head of a Hugging Face checkpoint: its class says the kind, its last weight the number of labels."""
    architectures = values.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    kind = next((h.name for h in HEADS.values() if h.architecture and name.endswith(h.architecture)), "none")
    output = _output_of(family, kind)
    shape = checkpoint.shapes.get(f"{output}.weight")
    if kind == "none" or shape is None or len(shape) != 2:
        return _Head("none")
    if kind == "question_answering":
        return _Head(kind)
    if kind == "token_classification":
        return _Head(kind, shape[0], id2label=values.get("id2label"))
    pooler = _classification_pooler(family, prefix)
    if f"{pooler}.weight" not in checkpoint.shapes:
        return _Head("none")
    problem_type = values.get("problem_type")
    if problem_type not in (*PROBLEM_TYPES, None):
        return _Head("none")
    return _Head(kind, shape[0], problem_type, values.get("id2label"))


def _pooler_fields(family: Family, head: _Head, prefix: str, checkpoint: Checkpoint) -> dict[str, Any]:
    if head.kind == "embedding":
        return {"pooler": "none"}
    if head.kind != "none":
        table = family.classification
        return {"pooler": table.activation, "pooler_dropout": table.pooler_dropout}
    has_pooler = family.base_pooler is not None and f"{prefix}{family.base_pooler}.weight" in checkpoint.shapes
    return {"pooler": "tanh" if has_pooler else "none"}


def _head_sources(family: Family, head: _Head, trained: bool, prefix: str) -> dict[str, Source]:
    if head.kind == "none":
        return linear("pooler", prefix + family.base_pooler) if family.base_pooler else {}
    module = HEADS[head.kind].module
    output = linear(module, _output_of(family, head.kind)) if trained and module else {}
    return output | (linear("pooler", _classification_pooler(family, prefix)) if head.kind == "classification" else {})


def _output_of(family: Family, kind: str) -> str:
    """Module name of the last linear layer of a kind of head."""
    names = {"token_classification": family.token_output, "question_answering": family.qa_output}
    return names.get(kind, family.classification.output)


def _classification_pooler(family: Family, prefix: str) -> str:
    return (prefix if family.classification.pooler_in_encoder else "") + family.classification.pooler


def _load_compact(directory: Path, wanted: _Head | None, seed: int) -> LoadedModel:
    values = saved_config(directory)
    checkpoint = Checkpoint(directory)
    saved = compact_config(values, directory / CONFIG_FILE)
    own = _Head(saved.head, saved.num_labels, saved.problem_type, saved.id2label)
    head, trained = _choose_head(wanted, own)
    config = saved
    if head is not own:
        kept = {name: value for name, value in values.items() if name not in _FIELDS_OF_HEAD}
        if head.kind == "none" and not saved.has_pooler:
            kept["pooler"] = "none"
        config = compact_config(kept | _head_fields(head, directory), directory / CONFIG_FILE)
    names = [name for name in checkpoint.shapes if trained or not name.startswith(_OUTPUTS)]
    sources = {name: Source((name,)) for name in names}
    new = _OUTPUTS if saved.has_pooler else _HEAD_MODULES
    model = _fill(config, checkpoint, sources, seed, () if trained else new)
    unexpected = [n for n in checkpoint.shapes.keys() - model.state_dict().keys() if not n.startswith(_HEAD_MODULES)]
    if unexpected:
        raise UserError(f"{directory} holds {min(unexpected)}, which the model of its {CONFIG_FILE} does not have")
    return LoadedModel(model, directory, trained)


def _fill(
    config: CompactConfig,
    checkpoint: Checkpoint,
    sources: Mapping[str, Source],
    seed: int,
    new_modules: tuple[str, ...],
) -> CompactModel:
    """Build the model and fill it. Every shape is compared before any memory is taken.

    new_modules: prefixes of what is drawn where the checkpoint has nothing for it; all else must be there.
    """
    with torch.device("meta"):
        model = CompactModel(config)
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    new = [name for name in expected if name.startswith(new_modules) and not _given(name, sources, checkpoint)]
    for name, shape in expected.items():
        if name not in new:
            _check_source(checkpoint, name, sources.get(name, Source((name,))), shape)
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in expected.items():
        if name in new:
            state[name] = _drawn(name, shape, config.initializer_range, generator)
        else:
            source = sources[name]
            state[name] = source.convert([checkpoint.read(each) for each in source.names])
    model.load_state_dict(state, assign=True)
    return model.eval()


def _given(name: str, sources: Mapping[str, Source], checkpoint: Checkpoint) -> bool:
    return name in sources and all(each in checkpoint.shapes for each in sources[name].names)


def _check_source(checkpoint: Checkpoint, name: str, source: Source, parameter: tuple[int, ...]) -> None:
    wanted = source.shape(parameter)
    for each in source.names:
        if each not in checkpoint.shapes:
            raise UserError(f"{checkpoint.directory} lacks the tensor {each} of shape {wanted} (for {name})")
        if checkpoint.shapes[each] != wanted:
            found = checkpoint.shapes[each]
            raise UserError(f"{checkpoint.directory}: {each} must have shape {wanted} by {CONFIG_FILE}, got {found}")


def _drawn(name: str, shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    return torch.empty(shape).normal_(0.0, std, generator=generator)
