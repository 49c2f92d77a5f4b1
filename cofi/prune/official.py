"""Checkpoints of the official CoFi code (princeton-nlp/CoFiPruning), full-size with masks or already cut.

Full-size weights come with zs.pt; the masks are folded by this project's rule, which is exact for fractions too. Cut
weights have no description: config.json keeps the sizes of the dense model, and what is left shows in the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cofi.errors import UserError
from cofi.files import read_json
from cofi.masks import Structure
from cofi.models import CompactConfig, CompactModel
from cofi.models.checkpoint import CONFIG_FILE, Checkpoint, compact_config
from cofi.models.class_names import label_fields
from cofi.models.families import FAMILIES, Family, Source
from cofi.models.families.family import linear
from cofi.prune.compact import build, compact, per_layer_config
from cofi.prune.official_masks import MASK_FILE, read_masks

OFFICIAL_FAMILIES = ("bert", "roberta")
_NORM = "norm."
_PICKLED_MASKS = "l0_module.pt"


def load_official(directory: str | Path) -> CompactModel:
    """The pruned model of an official checkpoint, in fp32, on the CPU, in eval mode.

    directory: config.json and the weights (pytorch_model.bin or safetensors), either full-size with zs.pt beside them
    or already cut. Files are loaded as plain tensors only (`weights_only=True`).
    Raises UserError for what cannot be read, does not fit together or is of another family than BERT and RoBERTa.
    """
    opened = _open(Path(directory))
    structure = _structure(opened)
    model = _read(opened, structure)
    masks_file = opened.directory / MASK_FILE
    if not masks_file.is_file():
        if structure == _dense_structure(opened) and (opened.directory / _PICKLED_MASKS).is_file():
            raise UserError(
                f"{opened.directory} has full-size weights and its masks only in {_PICKLED_MASKS}, a pickled object "
                f"that is not loaded: where it was made, save l0_module.forward(training=False) as {MASK_FILE}"
            )
        return model
    dense = _config(opened, _dense_structure(opened)).shape()
    masks = read_masks(masks_file, dense)
    if structure == _dense_structure(opened):
        return compact(model, masks)
    # a cut model beside the masks it was cut with: nothing is left to apply, provided they are the same
    if masks.structure(dense).to_dict() != structure.to_dict():
        raise UserError(f"{masks_file} does not describe the cut weights beside it: remove the one that is wrong")
    return model


def is_official(directory: str | Path) -> bool:
    """Whether a directory holds a checkpoint for `load_official` rather than an ordinary Hugging Face model."""
    directory = Path(directory)
    values = read_json(directory / CONFIG_FILE)
    if values.get("model_type") not in OFFICIAL_FAMILIES:
        return False
    classes = values.get("architectures")
    named = isinstance(classes, list) and any(str(name).startswith("CoFi") for name in classes)
    if named or (directory / MASK_FILE).is_file():
        return True
    opened = _open(directory)
    return _structure(opened) != _dense_structure(opened)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint and what its config.json says about the dense model. sources: of every encoder parameter."""

    directory: Path
    checkpoint: Checkpoint
    values: Mapping[str, Any]
    family: Family
    prefix: str
    dense: CompactConfig
    sources: Mapping[str, Source]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the checkpoint, which must be a matrix."""
        shape = self.checkpoint.shapes.get(name)
        if shape is None or len(shape) != 2:
            raise UserError(f"{self.directory} must hold the matrix {name}, got {shape or 'none'}")
        return shape

    def has(self, name: str) -> bool:
        return name in self.checkpoint.shapes


def _open(directory: Path) -> _Opened:
    values = read_json(directory / CONFIG_FILE)
    if values.get("model_type") not in OFFICIAL_FAMILIES:
        known, found = ", ".join(OFFICIAL_FAMILIES), values.get("model_type")
        raise UserError(f"{directory / CONFIG_FILE}: model_type must be one of {known}, got {found!r}")
    family = FAMILIES[values["model_type"]]
    checkpoint = Checkpoint(directory)
    prefix = family.prefix if any(name.startswith(family.prefix) for name in checkpoint.shapes) else ""
    # transformers notes pruned heads in config.json; here the shapes say it, for all units
    values = {name: value for name, value in values.items() if name != "pruned_heads"}
    try:
        fields = family.fields(values)
    except UserError as error:
        raise UserError(f"{directory / CONFIG_FILE}: {error}") from error
    dense = compact_config(fields, directory / CONFIG_FILE)
    sources = family.sources(prefix, dense.num_hidden_layers)
    surplus = f"{prefix}{family.layers}.{dense.num_hidden_layers}."
    if any(name.startswith(surplus) for name in checkpoint.shapes):
        raise UserError(f"{directory} has more layers than the {dense.num_hidden_layers} of its {CONFIG_FILE}")
    return _Opened(directory, checkpoint, values, family, prefix, dense, sources)


def _dense_structure(opened: _Opened) -> Structure:
    dense, n = opened.dense, opened.dense.num_hidden_layers
    return Structure(
        heads=(dense.num_attention_heads,) * n,
        intermediate=(dense.intermediate_size,) * n,
        hidden=dense.hidden_size,
        mha=(True,) * n,
        ffn=(True,) * n,
    )


def _structure(opened: _Opened) -> Structure:
    """What the shapes say is left. A sublayer without tensors, its unused LayerNorm apart, is a removed one."""
    heads, intermediate = [], []
    for i in range(opened.dense.num_hidden_layers):
        heads.append(_units(opened, f"layers.{i}.attention.", "w_qkv", opened.dense.head_dim))
        intermediate.append(_units(opened, f"layers.{i}.ffn.", "w_up", 1))
    hidden = opened.shape(opened.sources["embeddings.word.weight"].names[0])[1]
    structure = Structure(
        heads=tuple(heads),
        intermediate=tuple(intermediate),
        hidden=hidden,
        mha=tuple(n > 0 for n in heads),
        ffn=tuple(n > 0 for n in intermediate),
    )
    _check_within(opened, structure)
    return structure


def _units(opened: _Opened, sublayer: str, rows: str, rows_per_unit: int) -> int:
    """Units of one sublayer by the rows of its first matrix; 0 where the sublayer has no tensor but its LayerNorm.

    Raises UserError where that is missing too: the official code keeps it, so the file is not whole.
    """
    names = [
        name
        for parameter, source in opened.sources.items()
        if parameter.startswith(sublayer) and not parameter.startswith(sublayer + _NORM)
        for name in source.names
    ]
    if not any(map(opened.has, names)):
        norm = opened.sources[f"{sublayer}{_NORM}weight"].names[0]
        if not opened.has(norm):
            raise UserError(f"{opened.directory} lacks the tensor {norm}")
        return 0
    name = opened.sources[sublayer + rows].names[0]
    units, rest = divmod(opened.shape(name)[0], rows_per_unit)
    if rest or units == 0:
        raise UserError(
            f"{opened.directory}: {name} must have a multiple of {rows_per_unit} rows, got {opened.shape(name)[0]}"
        )
    return units


def _check_within(opened: _Opened, structure: Structure) -> None:
    dense = opened.dense
    sizes = {
        "num_attention_heads": (max(structure.heads), dense.num_attention_heads),
        "intermediate_size": (max(structure.intermediate), dense.intermediate_size),
        "hidden_size": (structure.hidden, dense.hidden_size),
    }
    for name, (found, allowed) in sizes.items():
        if found > allowed:
            raise UserError(f"{opened.directory}: {name} must be at most {allowed} by {CONFIG_FILE}, got {found}")


def _read(opened: _Opened, structure: Structure) -> CompactModel:
    """Build the model of this structure and fill it; every shape is compared before any tensor is read."""
    config = _config(opened, structure)
    sources = {**opened.sources, **_head_sources(opened, config.head)}
    with torch.device("meta"):
        expected = {name: tuple(p.shape) for name, p in CompactModel(config).state_dict().items()}
    for parameter, shape in expected.items():
        for name in sources[parameter].names:
            wanted, found = sources[parameter].shape(shape), opened.checkpoint.shapes.get(name)
            if found != wanted:
                raise UserError(f"{opened.directory}: {name} must have shape {wanted}, got {found or 'none'}")
    state = {name: sources[name].convert([opened.checkpoint.read(n) for n in sources[name].names]) for name in expected}
    return build(CompactModel, config, state).eval()


def _config(opened: _Opened, structure: Structure) -> CompactConfig:
    dense, head = opened.dense, _head_kind(opened)
    fields: dict[str, Any] = {
        **opened.family.fields(opened.values),
        "head": head,
        "head_dim": dense.head_dim,
        "hidden_size": structure.hidden,
        "per_layer_config": per_layer_config(dense.num_attention_heads, dense.intermediate_size, structure),
        "classifier_dropout": opened.family.head_dropout(opened.values, head),
        "source_model_type": opened.family.model_type,
        **_head_fields(opened, head),
    }
    return compact_config(fields, opened.directory / CONFIG_FILE)


def _head_kind(opened: _Opened) -> str:
    if opened.has(f"{opened.family.classification.output}.weight"):
        return "classification"
    return "question_answering" if opened.has(f"{opened.family.qa_output}.weight") else "none"


def _head_fields(opened: _Opened, head: str) -> dict[str, Any]:
    if head != "classification":
        return {"pooler": "none"}
    table = opened.family.classification
    n_labels = opened.shape(f"{table.output}.weight")[0]
    fields: dict[str, Any] = {
        "pooler": table.activation,
        "pooler_dropout": table.pooler_dropout,
        "pooler_size": opened.shape(f"{_pooler_name(opened)}.weight")[0],
        "num_labels": n_labels,
        "problem_type": "regression" if n_labels == 1 else "single_label_classification",
    }
    names = opened.values.get("id2label")
    if isinstance(names, Mapping) and len(names) == n_labels:
        try:
            fields |= label_fields(names, n_labels)
        except UserError as error:
            raise UserError(f"{opened.directory / CONFIG_FILE}: {error}") from error
    return fields


def _head_sources(opened: _Opened, head: str) -> dict[str, Source]:
    if head == "question_answering":
        return linear("qa_outputs", opened.family.qa_output)
    if head == "none":
        return {}
    return linear("pooler", _pooler_name(opened)) | linear("classifier", opened.family.classification.output)


def _pooler_name(opened: _Opened) -> str:
    table = opened.family.classification
    return (opened.prefix if table.pooler_in_encoder else "") + table.pooler
