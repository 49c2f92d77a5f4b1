"""CompactConfig: what it accepts, what it derives, and its way through JSON."""

from __future__ import annotations

import json

import pytest

from cofi.models import CompactConfig

from .tiny import tiny_config

PRUNED = {
    0: {"num_attention_heads": 2, "intermediate_size": 500},
    3: {"num_attention_heads": 0},
    5: {"intermediate_size": 0, "ffn_bias_only": True},
    11: {"num_attention_heads": 0, "intermediate_size": 0},
}


def test_sparse_layers_over_bert_base():
    config = CompactConfig(hidden_size=764, head_dim=64, num_hidden_layers=12, per_layer_config=PRUNED)
    layout = config.layout()
    assert layout.heads == (2, 12, 12, 0, 12, 12, 12, 12, 12, 12, 12, 0)
    assert layout.intermediate == (500, 3072, 3072, 3072, 3072, 0, 3072, 3072, 3072, 3072, 3072, 0)
    assert [i for i, kept in enumerate(layout.mha) if not kept] == [3, 11]
    assert [i for i, kept in enumerate(layout.ffn) if not kept] == [11]  # layer 5 keeps its bias and LayerNorm
    assert (layout.head_dim, layout.eps, layout.activation) == (64, 1e-12, "gelu")


def test_json_round_trip(tmp_path):
    config = CompactConfig(
        hidden_size=764, head_dim=64, per_layer_config=PRUNED, head="classification", id2label={0: "a", 1: "b", 2: "c"}
    )
    config.save_pretrained(tmp_path)
    again = CompactConfig.from_pretrained(tmp_path)
    assert again == config
    assert again.layout() == config.layout()
    assert again.id2label == {0: "a", 1: "b", 2: "c"}
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["per_layer_config"].keys() == {"00", "03", "05", "11"}
    assert stored["model_type"] == "cofi_compact"


def test_configurations_that_differ_are_not_equal():
    assert tiny_config() == tiny_config()
    assert tiny_config() != tiny_config(per_layer_config={0: {"intermediate_size": 1}})
    assert tiny_config() != "tiny"


def test_sizes_that_follow_from_others():
    config = CompactConfig(hidden_size=384)
    assert (config.head_dim, config.embedding_size, config.pooler_size) == (32, 384, 384)


def test_shape_of_a_uniform_model():
    shape = tiny_config(head_dim=5).shape()
    assert (shape.n_layers, shape.n_heads, shape.head_dim, shape.d_hidden, shape.d_int) == (2, 4, 5, 24, 40)


def test_no_shape_for_layers_that_differ():
    with pytest.raises(ValueError, match="layers must be of one size"):
        tiny_config(per_layer_config={0: {"num_attention_heads": 1}}).shape()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": -1}, r"hidden_size must be an integer in \[1, 65536\], got -1"),
        ({"hidden_size": "768"}, "hidden_size must be an integer .* got '768'"),
        ({"hidden_size": True}, "hidden_size must be an integer .* got True"),
        ({"vocab_size": 1 << 40}, "vocab_size must be an integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer"),
        ({"num_labels": 10**12}, "num_labels must be an integer"),
        ({"hidden_size": 764}, "head_dim must be given"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must be a number in \[0.0, 1.0\)"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps must be a number"),
        ({"hidden_act": "silu"}, "hidden_act must be one of gelu, gelu_new, relu, got 'silu'"),
        ({"head": "token"}, "head must be one of none, classification, token_classification, question_answering"),
        ({"pooler": None}, "pooler must be one of"),
        ({"pooler_dropout": 1}, "pooler_dropout must be true or false"),
        ({"problem_type": "ranking"}, "problem_type must be one of"),
        ({"problem_type": ["regression"]}, "problem_type must be one of"),
        ({"output_hidden_states": "often"}, "output_hidden_states"),
        ({"problem_type": "regression", "num_labels": 3}, "num_labels must be 1 for regression, got 3"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label must number its 2 labels from 0"),
        ({"id2label": ["a"]}, "id2label"),
        ({"position_offset": 512}, "position_offset must be below max_position_embeddings"),
        ({"per_layer_config": [1]}, "per_layer_config must map layer numbers"),
        ({"per_layer_config": {12: {}}}, r"layer numbers in \[0, 12\), got 12"),
        ({"per_layer_config": {-1: {}}}, "layer numbers"),
        ({"per_layer_config": {"x": {}}}, "layer numbers .* got 'x'"),
        ({"per_layer_config": {0: 3}}, r"per_layer_config\[0\] must map fields"),
        ({"per_layer_config": {0: {"skip": ["attention"]}}}, r"per_layer_config\[0\] may set .* got skip"),
        ({"per_layer_config": {0: {"num_attention_heads": -1}}}, "layer 0: num_attention_heads must be an integer"),
        ({"num_attention_heads": 1032, "head_dim": 64, "inference_precision": "int8"}, "must be at most 66000 in int8"),
        ({"per_layer_config": {4: {"ffn_bias_only": True}}}, "layer 4: ffn_bias_only needs intermediate_size to be 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        CompactConfig(**fields)


def test_short_name_of_the_problem_type():
    assert CompactConfig(problem_type="classification").problem_type == "single_label_classification"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"head": "classification"}, 0.1),
        ({"head": "classification", "classifier_dropout": 0.0}, 0.0),
        ({"head": "token_classification"}, 0.1),
        ({"head": "question_answering"}, 0.0),
        ({"head": "question_answering", "classifier_dropout": 0.3}, 0.3),
    ],
)
def test_dropout_before_the_head(fields, expected):
    assert CompactConfig(**fields).head_dropout == expected
