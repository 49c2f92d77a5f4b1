"""Checkpoints in the form of the official code, written here, read by `load_official`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from cofi.errors import UserError
from cofi.masks import Masks
from cofi.models import CompactModel, load_model
from cofi.prune import compact, load_official
from cofi.prune.official import is_official

SIZES = {
    "vocab_size": 23,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 20,
    "num_labels": 3,
}
# layer 0 keeps heads 0 and 2 and loses its FFN; layer 1 loses its attention
MASKS = Masks(
    z_head=torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
    z_int=torch.tensor([[1.0] * 10, [1.0, 0.0] * 5]),
    z_hidden=torch.tensor([1.0, 1.0, 0.0] * 4),
    z_mha=torch.tensor([1.0, 0.0]),
    z_ffn=torch.tensor([0.0, 1.0]),
)
INPUTS = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 2, 2]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 0, 0]]),
}


def dense_model(family: str, head: str = "SequenceClassification", **changes: Any) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(family, **(SIZES | changes))
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config).eval()
    for name, parameter in model.named_parameters():
        parameter.data = 0.5 * torch.randn_like(parameter) + float("norm.weight" in name.lower())
    return model


def write(folder: Path, state: Mapping[str, Tensor], config: Any, *, safetensors: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    values = config.to_dict() | {"architectures": ["CoFiForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(values))
    extra = {"layer_transformation.weight": torch.eye(12), "layer_transformation.bias": torch.zeros(12)}
    state = {name: value.contiguous() for name, value in (dict(state) | extra).items()}
    if safetensors:
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


# what the official code cuts for MASKS: (names, axis, kept); LayerNorms of removed sublayers stay as they were
HEADS, HIDDEN = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11]), torch.nonzero(MASKS.z_hidden)[:, 0]
INTERMEDIATE = torch.nonzero(MASKS.z_int[1])[:, 0]
REMOVED = r"layer\.0\.(intermediate|output\.dense)|layer\.1\.attention\.(self|output\.dense)"
CUTS = [
    (r"attention\.self", 0, HEADS),
    (r"attention\.output\.dense\.weight", 1, HEADS),
    (r"layer\.1\.intermediate", 0, INTERMEDIATE),
    (r"layer\.1\.output\.dense\.weight", 1, INTERMEDIATE),
    (r"output\.dense|embeddings\.LayerNorm|layer\.0\.attention\.output\.Layer|layer\.1\.output\.Layer", 0, HIDDEN),
    (r"_embeddings|(self\..*|intermediate\.dense|pooler\.dense|^classifier\.dense)\.weight", 1, HIDDEN),
]


def cut(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    small = {name: value for name, value in state.items() if not re.search(REMOVED, name)}
    for pattern, axis, kept in CUTS:
        small |= {name: small[name].index_select(axis, kept) for name in small if re.search(pattern, name)}
    return small


def official_masks(masks: Masks, as_numpy: bool = False) -> dict[str, Any]:
    shapes = {
        "head": ("head_z", (2, 1, 3, 1, 1)),
        "int": ("intermediate_z", (2, 1, 1, 10)),
        "hidden": ("hidden_z", (12,)),
    }
    shapes |= {"mha": ("head_layer_z", (2,)), "ffn": ("mlp_z", (2,))}
    values = {shapes[kind][0]: z.reshape(shapes[kind][1]) for kind, z in masks.by_kind().items()}
    return {name: z.numpy() for name, z in values.items()} if as_numpy else values


def soft(masks: Masks) -> Masks:
    return Masks.from_kinds({kind: z * (0.3 + 0.7 * torch.rand_like(z)) for kind, z in masks.by_kind().items()})


def masked_logits(folder: Path, masks: Masks) -> Tensor:
    """Of the same weights read as an ordinary model."""
    values = json.loads((folder / "config.json").read_text())
    values["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(values))
    with torch.no_grad():
        return load_model(folder).model(**INPUTS, masks=masks).logits


def logits(model: CompactModel) -> Tensor:
    with torch.no_grad():
        return model(**INPUTS).logits


@pytest.mark.parametrize("safetensors", [False, True], ids=["bin", "safetensors"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_cut_weights_tell_the_structure(family: str, safetensors: bool, tmp_path: Path) -> None:
    dense = dense_model(family)
    full = write(tmp_path / "full", dense.state_dict(), dense.config)
    # transformers notes the heads it pruned; the shapes say it anyway
    dense.config.pruned_heads = {0: [1]}
    state = cut(dense.state_dict())
    model = load_official(write(tmp_path / "cut", state, dense.config, safetensors=safetensors))
    assert (model.layout.heads, model.layout.mha) == ((2, 0), (True, False))
    assert (model.layout.intermediate, model.layout.ffn) == ((0, 5), (False, True))
    assert (model.config.hidden_size, model.config.head_dim, model.config.pooler_size) == (8, 4, 12)
    torch.testing.assert_close(logits(model), masked_logits(full, MASKS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("as_numpy", [False, True], ids=["tensors", "arrays"])
def test_full_weights_with_masks(family: str, as_numpy: bool, tmp_path: Path) -> None:
    dense, masks = dense_model(family), soft(MASKS)
    folder = write(tmp_path / "full", dense.state_dict(), dense.config)
    torch.save(official_masks(masks, as_numpy), folder / "zs.pt")
    model = load_official(folder)
    assert model.layout.heads == (2, 0) and not model.training
    torch.testing.assert_close(logits(model), masked_logits(folder, masks), rtol=0, atol=2e-5)


def test_some_kinds_only_and_question_answering(tmp_path: Path) -> None:
    dense = dense_model("bert", "QuestionAnswering", num_labels=2)
    folder = write(tmp_path / "full", dense.state_dict(), dense.config)
    masks = Masks(z_head=soft(MASKS).z_head)
    torch.save(official_masks(masks), folder / "zs.pt")
    model = load_official(folder)
    assert model.config.head == "question_answering" and model.layout.heads == (2, 3)
    values = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForQuestionAnswering"]}
    (folder / "config.json").write_text(json.dumps(values))
    with torch.no_grad():
        found, expected = model(**INPUTS), compact(load_model(folder).model, masks)(**INPUTS)
    assert torch.equal(found.start_logits, expected.start_logits)


def test_masks_beside_weights_cut_with_them_are_not_applied_again(tmp_path: Path) -> None:
    dense = dense_model("bert")
    folder = write(tmp_path / "cut", cut(dense.state_dict()), dense.config)
    expected = logits(load_official(folder))
    torch.save(official_masks(soft(MASKS)), folder / "zs.pt")
    assert torch.equal(logits(load_official(folder)), expected)
    torch.save(official_masks(Masks(z_mha=MASKS.z_mha)), folder / "zs.pt")
    with pytest.raises(UserError, match="zs.pt does not describe the cut weights beside it"):
        load_official(folder)


def test_masks_only_in_a_pickled_module(tmp_path: Path) -> None:
    dense = dense_model("bert")
    folder = write(tmp_path / "full", dense.state_dict(), dense.config)
    (folder / "l0_module.pt").touch()
    with pytest.raises(UserError, match="masks only in l0_module.pt, a pickled object that is not loaded"):
        load_official(folder)


def test_labels_are_kept(tmp_path: Path) -> None:
    dense = dense_model("bert", id2label={0: "no", 1: "maybe", 2: "yes"})
    model = load_official(write(tmp_path / "full", dense.state_dict(), dense.config))
    assert model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}


@pytest.mark.parametrize("names", [{"a": "no", "b": "yes", "c": "?"}, {"0": ["no"], "1": "yes", "2": "?"}], ids=str)
def test_labels_that_are_none_are_said(tmp_path: Path, names: dict[str, object]) -> None:
    dense = dense_model("bert", id2label={0: "no", 1: "maybe", 2: "yes"})
    folder = write(tmp_path / "full", dense.state_dict(), dense.config)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": names}))
    with pytest.raises(UserError, match=r"config.json: id2label must name the classifier's 3 labels, got \{'"):
        load_official(folder)


class Pickled:
    """An object that only a pickle can bring back."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Pickled(), "cannot be loaded as plain tensors: it holds other objects"),
        (None, "must hold the masks by name, got NoneType"),
        ({"qk_z": torch.ones(2)}, "may hold head_z, .*, got qk_z"),
        ({"mlp_z": [1.0, 0.0]}, "mlp_z must be a tensor or an array of numbers, got list"),
        (
            {"head_z": torch.ones(2, 1, 4, 1, 1)},
            r"head_z must have shape \(2, 3\) by config.json, got \(2, 1, 4, 1, 1\)",
        ),
        ({"hidden_z": torch.full((12,), 2.0)}, r"hidden_z must be within \[0, 1\]"),
        ({"mlp_z": np.array(["a", "b"])}, "it holds other objects"),
        ({"mlp_z": np.array([1 + 2j, 0])}, "it holds other objects"),
        ({"mlp_z": np.array([None, 1.0])}, "it holds other objects"),
        ({"mlp_z": torch.tensor([1 + 2j, 0])}, "mlp_z must be a tensor or an array of numbers"),
    ],
    ids=["pickle", "none", "name", "list", "shape", "range", "text", "complex array", "objects", "complex"],
)
def test_masks_that_cannot_be_used(content: Any, message: str, tmp_path: Path) -> None:
    dense = dense_model("bert")
    folder = write(tmp_path / "full", dense.state_dict(), dense.config)
    torch.save(content, folder / "zs.pt")
    with pytest.raises(UserError, match=message):
        load_official(folder)


def test_masks_file_that_is_no_file_of_torch(tmp_path: Path) -> None:
    dense = dense_model("bert")
    folder = write(tmp_path / "full", dense.state_dict(), dense.config)
    (folder / "zs.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match="zs.pt cannot be loaded"):
        load_official(folder)


def rows(state: dict[str, Tensor], name: str, count: int) -> None:
    state[name] = state[name].repeat(3, 1)[:count]


DAMAGE = {
    "part of a sublayer": (
        lambda state: state.pop("bert.encoder.layer.0.attention.self.key.weight"),
        r"key.weight must have shape \(8, 8\), got none",
    ),
    "no first matrix": (
        lambda state: state.pop("bert.encoder.layer.1.intermediate.dense.weight"),
        "must hold the matrix bert.encoder.layer.1.intermediate.dense.weight, got none",
    ),
    "half a head": (
        lambda state: rows(state, "bert.encoder.layer.0.attention.self.query.weight", 6),
        "query.weight must have a multiple of 4 rows, got 6",
    ),
    "wider than the dense model": (
        lambda state: rows(state, "bert.encoder.layer.1.intermediate.dense.weight", 11),
        "intermediate_size must be at most 10 by config.json, got 11",
    ),
    "another hidden size": (
        lambda state: rows(state, "bert.encoder.layer.1.output.dense.weight", 7),
        r"output.dense.weight must have shape \(8, 5\), got \(7, 5\)",
    ),
    "no classifier bias": (
        lambda state: state.pop("classifier.bias"),
        r"classifier.bias must have shape \(3,\), got none",
    ),
    "a layer too many": (
        lambda state: state.update({"bert.encoder.layer.2.output.dense.bias": torch.zeros(8)}),
        "has more layers than the 2 of its config.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_weights_that_do_not_fit_together(damage: str, tmp_path: Path) -> None:
    dense = dense_model("bert")
    state = cut(dense.state_dict())
    change, message = DAMAGE[damage]
    change(state)
    with pytest.raises(UserError, match=message):
        load_official(write(tmp_path / "cut", state, dense.config))


def test_other_families_are_refused(tmp_path: Path) -> None:
    dense = transformers.AutoModel.from_config(
        transformers.DistilBertConfig(dim=8, n_heads=2, n_layers=1, hidden_dim=8)
    )
    dense.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model_type must be one of bert, roberta, got 'distilbert'"):
        load_official(tmp_path)
    assert not is_official(tmp_path)


def test_what_counts_as_official(tmp_path: Path) -> None:
    dense = dense_model("bert")
    dense.save_pretrained(tmp_path / "plain")
    assert not is_official(tmp_path / "plain")
    assert is_official(write(tmp_path / "named", dense.state_dict(), dense.config))
    cut_folder = write(tmp_path / "cut", cut(dense.state_dict()), dense.config)
    dense.config.save_pretrained(cut_folder)  # without the name of the official class
    assert is_official(cut_folder)
    (tmp_path / "plain" / "zs.pt").touch()
    assert is_official(tmp_path / "plain")
