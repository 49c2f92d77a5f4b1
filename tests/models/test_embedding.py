"""The head of sentence embeddings: as Sentence Transformers has it, by its files, whichever way a batch comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cofi.errors import UserError
from cofi.models import CompactModel, PackedBatch, load_model, pack_padded
from cofi.models.save import save_model
from cofi.models.sentence_files import LENGTH_FILE, read_max_seq_length, read_pooling

from .tiny import HF_SIZES, flipped, hf_directory, model_of, padded_inputs, random_masks

NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}
TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}


def write_modules(directory: Path, modules: list[dict[str, Any]], pooling: dict[str, Any] | None = None) -> Path:
    (directory / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    return directory


def by_definition(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Row by row."""
    rows = [state[keep.bool()] for state, keep in zip(states, mask, strict=True)]
    pooled = torch.stack([row[0] if pooling == "first" else row.mean(0) for row in rows])
    return pooled / pooled.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("family", HF_SIZES)
def test_it_is_what_is_made_of_the_states_of_transformers(family, pooling, tmp_path):
    theirs = hf_directory(tmp_path, family, "base")
    mode = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token"}[pooling]
    off = {"pooling_mode_max_tokens": False, "word_embedding_dimension": 24}
    write_modules(tmp_path, [TRANSFORMER, POOLING, NORMALIZE], {mode: True, **off})
    loaded = load_model(tmp_path, head="embedding")
    assert loaded.head_trained and loaded.model.config.pooling == pooling
    inputs = padded_inputs(types=0)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        want = by_definition(theirs(**inputs).last_hidden_state, mask, pooling)
        torch.testing.assert_close(loaded.model(**inputs).sentence_embedding, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_packing_and_gradients_make_no_difference(pooling):
    model = model_of(head="embedding", pooling=pooling)
    inputs = padded_inputs()
    packed = pack_padded(**inputs)
    states = model(**inputs).last_hidden_state
    want = by_definition(states, inputs["attention_mask"], pooling)
    assert want.requires_grad
    found = {
        "padded, with gradients": model(**inputs),
        "packed": model(batch=packed),
        "masks of ones": model(batch=packed, masks=None),
    }
    with torch.no_grad():
        found |= {"padded": model(**inputs), "on the left": model(**flipped(inputs)), "alone": model(batch=packed)}
        whole = {name: value[:1] for name, value in inputs.items() if name != "attention_mask"}
        torch.testing.assert_close(model(**whole).sentence_embedding, want[:1], rtol=1e-5, atol=1e-6)
    for name, output in found.items():
        torch.testing.assert_close(output.sentence_embedding, want, rtol=1e-5, atol=1e-6, msg=name)
        assert output.logits is None and output.pooler_output is None


def test_the_sequence_that_fills_a_batch_up_is_left_out():
    model, inputs = model_of(head="embedding"), padded_inputs()
    packed = pack_padded(**inputs)
    longer = {
        name: functional.pad(getattr(packed, name), (0, 3)) for name in ("input_ids", "token_type_ids", "position_ids")
    }
    bounds = functional.pad(packed.cu_seqlens, (0, 1), value=packed.n_tokens + 3)
    filled = PackedBatch(**longer, cu_seqlens=bounds, max_seqlen=packed.max_seqlen, is_padded=True)
    found = model(batch=filled).sentence_embedding
    torch.testing.assert_close(found, model(batch=packed).sentence_embedding, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_squared_distance_and_reaches_the_weights():
    model, inputs = model_of(head="embedding").double(), padded_inputs()
    batch, target = pack_padded(**inputs), functional.normalize(torch.randn(3, 24, dtype=torch.float64), dim=1)
    masks = random_masks(("head", "int"))
    output = model(batch=batch, masks=masks, labels=target)
    cosines = (output.sentence_embedding * target).sum(1)
    torch.testing.assert_close(output.loss, (2 - 2 * cosines).mean())
    output.loss.backward()
    assert model.layers[0].ffn.w_up.grad.abs().sum() > 0
    torch.testing.assert_close(output.sentence_embedding.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_states_in_bf16_are_summed_in_fp32():
    model, inputs = model_of(head="embedding"), padded_inputs()
    found = model(batch=pack_padded(**inputs), compute_dtype=torch.bfloat16).sentence_embedding
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(**inputs).sentence_embedding, rtol=0.1, atol=0.05)


def test_other_heads_are_dropped_and_made_anew(classifier, tmp_path):
    model = load_model(classifier, head="embedding").model
    assert model.pooler is None and model.classifier is None
    saved = save_model(model, None, tmp_path / "saved")
    assert load_model(saved).model.config.head == "embedding"
    again = load_model(saved, head="classification", num_labels=3)
    assert not again.head_trained and again.model.classifier.out_features == 3
    back = load_model(save_model(again.model, None, tmp_path / "again"), head="embedding")
    assert back.head_trained and back.model.classifier is None


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_saved_model_says_to_sentence_transformers_what_it_does(pooling, tmp_path):
    model = model_of(head="embedding", pooling=pooling)
    for _ in range(2):  # the second time in the place of the first
        save_model(model, None, tmp_path / "saved")
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert all((tmp_path / "saved" / module["path"]).is_dir() for module in modules)
    assert read_pooling(tmp_path / "saved") == pooling
    again, inputs = CompactModel.from_pretrained(tmp_path / "saved").eval(), padded_inputs()
    with torch.no_grad():
        assert torch.equal(again(**inputs).sentence_embedding, model(**inputs).sentence_embedding)
    save_model(model_of(), None, tmp_path / "plain")
    assert not (tmp_path / "plain" / "modules.json").exists()


@pytest.mark.parametrize(("says", "kept"), [(9, 9), (10**6, None), (None, None)])
def test_a_text_is_cut_where_the_original_cuts_it(says, kept, tmp_path):
    hf_directory(tmp_path, "bert", "base")
    write_modules(tmp_path, [TRANSFORMER, POOLING])
    (tmp_path / LENGTH_FILE).write_text(json.dumps({"max_seq_length": says}))
    model = load_model(tmp_path, head="embedding").model
    saved = save_model(model, None, tmp_path / "saved")
    assert read_max_seq_length(saved) == (kept or model.config.longest)
    assert load_model(saved).model.config == model.config


@pytest.mark.parametrize("value", [0, -1, 2.5, "9", True])
def test_a_length_that_is_none_is_refused(value, tmp_path):
    (tmp_path / LENGTH_FILE).write_text(json.dumps({"max_seq_length": value}))
    with pytest.raises(UserError, match=f"{LENGTH_FILE}: max_seq_length must be a whole number from 1, got {value!r}"):
        read_max_seq_length(tmp_path)


def test_without_files_the_mean_is_taken(tmp_path):
    assert read_max_seq_length(tmp_path) is None
    assert read_pooling(tmp_path) == "mean"
    assert read_pooling(write_modules(tmp_path, [TRANSFORMER, POOLING], {"pooling_mode": "cls"})) == "first"


@pytest.mark.parametrize(
    ("modules", "pooling", "words"),
    [
        (
            [TRANSFORMER, POOLING, {"type": "x.Dense", "path": "3"}],
            None,
            "must list modules of Transformer, Pooling, Normal",
        ),
        ([TRANSFORMER], None, "must list one module Pooling, got 0"),
        ([TRANSFORMER, POOLING, POOLING], None, "must list one module Pooling, got 2"),
        (
            [TRANSFORMER, POOLING | {"path": "../1_Pooling"}],
            None,
            "must name a directory beside it, got '../1_",
        ),
        ([TRANSFORMER, POOLING | {"path": "/etc"}], None, "must name a directory beside it, got '/etc'"),
        ([TRANSFORMER, POOLING | {"path": 3}], None, "must name a directory beside it, got 3"),
        (["Pooling"], None, "got None"),
        ([TRANSFORMER, POOLING], {"pooling_mode_max_tokens": True}, "must pool by the mean of the tokens or the first"),
        (
            [TRANSFORMER, POOLING],
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "must pool by the mean of the tokens or the first",
        ),
        ([TRANSFORMER, POOLING], {"pooling_mode": "weightedmean"}, "must pool by the mean of the tokens or the first"),
        ([TRANSFORMER, POOLING | {"path": "nowhere"}], None, "nowhere/config.json cannot be read"),
    ],
)
def test_what_is_not_supported_is_refused(modules, pooling, words, tmp_path):
    hf_directory(tmp_path, "bert", "base")
    write_modules(tmp_path, modules, pooling)
    with pytest.raises(UserError, match=words):
        load_model(tmp_path, head="embedding")
    assert load_model(tmp_path).model.config.head == "none"  # for anything else the files mean nothing


def test_a_list_of_modules_that_is_none_is_refused(tmp_path):
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(UserError, match="modules.json must hold a JSON array, got dict"):
        read_pooling(tmp_path)
