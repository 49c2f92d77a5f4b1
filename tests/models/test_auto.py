"""The model as transformers sees it: Auto classes, save_pretrained, and a strict from_pretrained."""

from __future__ import annotations

import pytest
import torch
import transformers

from cofi import (
    CompactConfig,
    CompactModel,
    CompactModelForQuestionAnswering,
    CompactModelForSequenceClassification,
    CompactModelForTokenClassification,
)
from cofi.errors import UserError
from cofi.models import load_model

from .tiny import edit_config, edit_weights, hf_directory, padded_inputs, tiny_config

LAYERS = {
    0: {"num_attention_heads": 1, "intermediate_size": 7},
    1: {"num_attention_heads": 0, "attention_bias_only": True, "intermediate_size": 0},
    2: {"intermediate_size": 0, "ffn_bias_only": True},
}
HEADS = {
    "none": transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
}
CLASSES = {
    "none": CompactModel,
    "classification": CompactModelForSequenceClassification,
    "token_classification": CompactModelForTokenClassification,
    "question_answering": CompactModelForQuestionAnswering,
}


def pruned_model(**changes):
    return CompactModel(tiny_config(num_hidden_layers=3, per_layer_config=LAYERS, **changes)).eval()


@pytest.fixture
def saved(tmp_path):
    model = pruned_model(head="classification", num_labels=3)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_config_is_registered(saved):
    directory, model = saved
    config = transformers.AutoConfig.from_pretrained(directory)
    assert isinstance(config, CompactConfig)
    assert config.layout() == model.config.layout()


@pytest.mark.parametrize("head", HEADS)
def test_auto_classes(head, tmp_path):
    model = pruned_model(head=head)
    model.save_pretrained(tmp_path)
    loaded = HEADS[head].from_pretrained(tmp_path)
    assert type(loaded) is CLASSES[head]
    assert not loaded.training
    inputs = padded_inputs()
    with torch.no_grad():
        ours, want = loaded(**inputs), model(**inputs)
    assert ours.keys() == want.keys()
    assert all(torch.equal(ours[name], want[name]) for name in want)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_new_model_of_an_auto_class_gets_its_head():
    config = tiny_config()
    model = transformers.AutoModelForQuestionAnswering.from_config(config)
    assert model.qa_outputs is not None
    assert config.head == "none"  # the caller's own configuration is left alone


def test_class_of_another_head():
    with pytest.raises(ValueError, match="config.head must be 'question_answering' or 'none'"):
        CompactModelForQuestionAnswering(tiny_config(head="classification"))


def test_directory_holds_safetensors_and_config_only(saved):
    directory, _ = saved
    assert {path.name for path in directory.iterdir()} == {"config.json", "model.safetensors"}


def test_initial_weights():
    model = CompactModel(tiny_config(hidden_size=128, initializer_range=0.05))
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all(), name
        elif name.endswith(("bias", "b_qkv", "b_out", "b_up", "b_down")):
            assert (parameter == 0).all(), name
        else:
            assert 0.04 < parameter.std().item() < 0.06, name


def test_loading_info_can_be_asked_for(saved):
    directory, _ = saved
    model, info = CompactModel.from_pretrained(directory, output_loading_info=True)
    assert isinstance(model, CompactModel)
    assert not info["missing_keys"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_argument(dtype, saved):
    directory, _ = saved
    assert CompactModel.from_pretrained(directory, dtype=dtype).dtype == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layers.0.ffn.b_up"), "lacks the tensor layers.0.ffn.b_up of shape"),
        (lambda w: w.update({"layers.0.ffn.b_up": torch.zeros(8)}), r"layers.0.ffn.b_up must have shape \(7,\)"),
        (lambda w: w.update(extra=torch.zeros(1)), "holds extra, which the model"),
    ],
    ids=["missing", "mismatched", "unexpected"],
)
@pytest.mark.parametrize("loader", [CompactModel, transformers.AutoModel], ids=["own", "auto"])
def test_weights_that_do_not_fit(loader, change, message, saved):
    directory, _ = saved
    edit_weights(directory, change)
    with pytest.raises(UserError, match=message):
        loader.from_pretrained(directory)


def test_head_that_the_checkpoint_does_not_have(tmp_path):
    pruned_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks the tensor classifier.weight"):
        CompactModelForSequenceClassification.from_pretrained(tmp_path)
    assert not load_model(tmp_path, head="classification").head_trained


def test_override_that_does_not_fit_the_weights(saved):
    directory, _ = saved
    with pytest.raises(UserError, match="unexpected keys classifier.bias"):
        CompactModel.from_pretrained(directory, head="none")


def test_truncated_weights(saved):
    directory, _ = saved
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="model.safetensors is truncated"):
        CompactModel.from_pretrained(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": -3}, "hidden_size must be an integer"),
        ({"per_layer_config": {"9": {}}}, "per_layer_config must use layer numbers"),
        ({"output_hidden_states": "often"}, "output_hidden_states"),
        ({"dtype": "no_such_dtype"}, "no_such_dtype"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config is not supported"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configs_that_are_wrong(changes, message, saved):
    directory, _ = saved
    edit_config(directory, **changes)
    with pytest.raises(UserError, match=message):
        CompactModel.from_pretrained(directory)


def test_other_models_are_sent_to_load_model(tmp_path):
    hf_directory(tmp_path, "bert", "base")
    with pytest.raises(UserError, match="model_type 'cofi_compact', got 'bert'; cofi.models.load_model"):
        CompactModel.from_pretrained(tmp_path)


def test_word_table_can_be_resized():
    model = pruned_model()
    assert model.get_input_embeddings() is model.embeddings.word
    model.resize_token_embeddings(101)
    assert model.embeddings.word.weight.shape == (101, 24)
    with pytest.raises(TypeError, match="must be an nn.Embedding"):
        model.set_input_embeddings(torch.nn.Linear(2, 2))


def test_a_directory_in_another_and_weights_alone(tmp_path):
    model = pruned_model()
    model.save_pretrained(tmp_path / "run" / "model")
    found = CompactModel.from_pretrained(tmp_path / "run", subfolder="model")
    given = CompactModel.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight) and torch.equal(given.state_dict()[name], weight)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_types", ["full_attention"]),
        ("attn_implementation", "flash_attention_2"),
        ("_attn_implementation", "sdpa"),
        ("rope_parameters", "x"),
        ("dtype", 5),
    ],
)
def test_fields_that_end_in_errors_of_transformers(tmp_path, field, value):
    pruned_model().save_pretrained(tmp_path)
    edit_config(tmp_path, **{field: value})
    for load in (load_model, CompactModel.from_pretrained):
        with pytest.raises(UserError, match=f"config.json: {field} (is not supported|must be the name of one, got 5)"):
            load(tmp_path)
