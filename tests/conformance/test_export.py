"""Export against the official code: its masked outputs, its cut weights where its export is exact, its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from cofi.masks import Masks
from cofi.models import CompactModel
from cofi.models.families import FAMILIES
from cofi.prune import compact, load_official

from .golden_models import EPS, model_inputs, official_masks, with_prefix
from .golden_models import load_official as load_dense
from .goldens import OFFICIAL_KINDS, load, tensor

ATOL = 1e-5
EXACT = "hard"  # masks of 0 and 1, where the official export equals the official masked model
CASES = [EXACT, "softzeros"]
FULL = "full__"
# the official count leaves these out (evaluation.py)
NOT_COUNTED = ("embedding", "layer_transformation", "classifier", "pooler", "position_ids")


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Mapping[str, np.ndarray]:
    return load(golden_dir, "export_tiny12")


def n_heads(golden: Mapping[str, np.ndarray]) -> int:
    return golden[f"{EXACT}__z_head_z"].shape[2]


@pytest.fixture
def dense(golden: Mapping[str, np.ndarray], tmp_path: Path) -> CompactModel:
    return load_dense(tmp_path / "full", with_prefix(golden, FULL), n_heads(golden), "SequenceClassification")


def case_masks(golden: Mapping[str, np.ndarray], case: str) -> Masks:
    return official_masks(golden, f"{case}__z_").detach()


def assert_outputs(
    model: CompactModel, golden: Mapping[str, np.ndarray], logits: str, last_hidden: str, kept: torch.Tensor
) -> None:
    inputs = model_inputs(golden)
    with torch.no_grad():
        output = model(**inputs)
    is_token = inputs["attention_mask"] != 0
    torch.testing.assert_close(output.logits, tensor(golden[logits]), rtol=0, atol=ATOL)
    want = tensor(golden[last_hidden])[is_token][:, kept]
    torch.testing.assert_close(output.last_hidden_state[is_token], want, rtol=0, atol=ATOL)


@pytest.mark.parametrize("case", CASES)
def test_compact_equals_the_official_masked_model(
    case: str, dense: CompactModel, golden: Mapping[str, np.ndarray]
) -> None:
    """For fractions too, where the official export itself does not."""
    masks = case_masks(golden, case)
    kept = masks.z_hidden != 0
    assert_outputs(compact(dense, masks), golden, f"{case}__masked_logits", f"{case}__masked_last_hidden", kept)


def test_weights_are_the_officially_cut_ones(dense: CompactModel, golden: Mapping[str, np.ndarray]) -> None:
    small = compact(dense, case_masks(golden, EXACT))
    official = with_prefix(golden, f"{EXACT}__pruned__")
    family = FAMILIES["bert"]
    sources = family.sources(family.prefix, len(small.layers))
    compared = set()
    for name, weight in small.state_dict().items():
        if name in sources:
            names = sources[name].names
            want = sources[name].convert([tensor(official[each]) for each in names])
        else:
            names = (name.replace("pooler.", "bert.pooler.dense."),)
            want = tensor(official[names[0]])
        torch.testing.assert_close(weight, want, rtol=0, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
        compared |= set(names)
    left_over = official.keys() - compared - {"bert.embeddings.position_ids"}
    assert all("LayerNorm" in name for name in left_over)  # the official cut keeps those of removed sublayers
    ours = sum(p.numel() for name, p in small.state_dict().items() if not any(word in name for word in NOT_COUNTED))
    unused = sum(official[name].size for name in left_over)
    assert ours + unused == int(golden[f"{EXACT}__n_params"])


def write_official(directory: Path, golden: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> Path:
    """A directory as the official code saves it: config.json of the dense model and pytorch_model.bin."""
    full = with_prefix(golden, FULL)
    word = full["bert.embeddings.word_embeddings.weight"]
    config = {
        "model_type": "bert",
        "architectures": ["CoFiBertForSequenceClassification"],
        "vocab_size": word.shape[0],
        "hidden_size": word.shape[1],
        "max_position_embeddings": full["bert.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": full["bert.embeddings.token_type_embeddings.weight"].shape[0],
        "num_hidden_layers": golden[f"{EXACT}__z_mlp_z"].shape[0],
        "num_attention_heads": n_heads(golden),
        "intermediate_size": full["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "layer_norm_eps": EPS,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    torch.save({name: tensor(value) for name, value in weights.items()}, directory / "pytorch_model.bin")
    return directory


@pytest.mark.parametrize("case", CASES)
def test_official_cut_checkpoint_is_read(case: str, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    """It computes what the official cut model does, which for fractions is not what the masked one does."""
    weights = with_prefix(golden, f"{case}__pruned__")
    model = load_official(write_official(tmp_path / "cut", golden, weights))
    everything = slice(None)
    assert_outputs(model, golden, f"{case}__pruned_logits", f"{case}__pruned_last_hidden", everything)


@pytest.mark.parametrize("case", CASES)
def test_official_masks_beside_full_weights_are_folded_exactly(
    case: str, golden: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    folder = write_official(tmp_path / "full", golden, with_prefix(golden, FULL))
    zs = {f"{name}_z": tensor(golden[f"{case}__z_{name}_z"]) for name in OFFICIAL_KINDS.values()}
    torch.save(zs, folder / "zs.pt")
    kept = zs["hidden_z"] != 0
    assert_outputs(load_official(folder), golden, f"{case}__masked_logits", f"{case}__masked_last_hidden", kept)
