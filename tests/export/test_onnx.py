"""ONNX Runtime gives what the model gives: every head and structure, padding on either side, any batch and length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofi.errors import UserError
from cofi.models import CompactConfig, CompactModel, load_model
from cofi.prune import compact
from tests.models.tiny import HF_SIZES, TASKS, hf_directory
from tests.prune.building import configs, mask_modes, random_batch, random_masks, random_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import cofi.export.onnx as writer  # noqa: E402
from cofi.export.graph import build_graph  # noqa: E402

TOLERANCE = 1e-5
SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 12,
    "head": "classification",
}
# one layer whole, one of another width without FFN, one of biases only
CUT: dict[int, dict[str, Any]] = {
    1: {"num_attention_heads": 1, "intermediate_size": 0},
    2: {"num_attention_heads": 0, "attention_bias_only": True, "intermediate_size": 0, "ffn_bias_only": True},
}


def session_of(source: Any) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Outputs by name, from the inputs that the graph has."""
    inputs = {each.name: batch[each.name].numpy() for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    return {name: torch.from_numpy(value) for name, value in zip(names, session.run(names, inputs), strict=True)}


def assert_same(found: dict[str, torch.Tensor], model: CompactModel, batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        expected = model(**batch)
    assert found.keys() <= expected.keys() and found
    for name, value in found.items():
        want = expected[name]
        padding = want == torch.finfo(want.dtype).min
        assert torch.equal(value == torch.finfo(want.dtype).min, padding)
        scale = want[~padding].abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(value[~padding], want[~padding], rtol=0, atol=TOLERANCE * scale)


@settings(max_examples=60, deadline=None)
@given(configs(st.integers(8, 16), eps=(1e-5,)), mask_modes(), st.integers(0, 10**6))
def test_graph_equals_model(config: CompactConfig, modes: dict[str, str], seed: int) -> None:
    modes = modes | ({"hidden": "soft"} if modes["hidden"] == "sparse" else {})  # see tests/prune/test_compact.py
    model = compact(random_model(config, seed), random_masks(config.shape(), modes, seed))
    proto = build_graph(model)
    onnx.checker.check_model(proto, full_check=True)
    session = session_of(proto.SerializeToString())
    for lengths in ((5, 1, 3), (8,), (1, 2)):
        batch = random_batch(model.config, lengths, seed)
        assert_same(run(session, batch), model, batch)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", HF_SIZES)
def test_every_family(family: str, task: str, tmp_path: Path) -> None:
    hf_directory(tmp_path / "hf", family, task)
    model = load_model(tmp_path / "hf").model
    files, difference = writer.write_onnx(model, tmp_path / "model.onnx")
    assert files == [tmp_path / "model.onnx"] and difference <= TOLERANCE
    names = {"base": "last_hidden_state", "question_answering": "start_logits"}
    session = session_of(str(files[0]))
    assert session.get_outputs()[0].name == names.get(task, "logits")
    # XLM-R's and DistilBERT's tokenizers give no types
    assert ("token_type_ids" in {each.name for each in session.get_inputs()}) == (model.config.type_vocab_size > 1)


def test_inputs_and_outputs_are_dynamic_and_named() -> None:
    session = session_of(build_graph(random_model(CompactConfig(**SIZES))).SerializeToString())
    assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == [
        (name, "tensor(int64)", ["batch", "sequence"]) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [("logits", ["batch", 2])]


def test_padding_beyond_the_position_table_is_harmless() -> None:
    model = random_model(CompactConfig(**SIZES))
    batch = random_batch(model.config, (4, 2))
    wide = {name: torch.nn.functional.pad(value, (0, 20)) for name, value in batch.items()}
    session = session_of(build_graph(model).SerializeToString())
    torch.testing.assert_close(run(session, wide)["logits"], run(session, batch)["logits"], rtol=0, atol=TOLERANCE)


def test_half_precision_is_written_in_fp32(tmp_path: Path) -> None:
    model = random_model(CompactConfig(**SIZES), dtype=torch.bfloat16)
    writer.write_onnx(model, tmp_path / "model.onnx")
    assert {t.data_type for t in onnx.load(tmp_path / "model.onnx").graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_large_models_keep_their_weights_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_EXTERNAL_DATA_BYTES", 0)
    model = random_model(CompactConfig(**SIZES, per_layer_config=CUT))
    files, _ = writer.write_onnx(model, tmp_path / "model.onnx")
    assert files == [tmp_path / "model.onnx.data", tmp_path / "model.onnx"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "model.onnx", tmp_path / "model.onnx.data"]
    batch = random_batch(model.config)
    assert_same(run(session_of(str(files[-1])), batch), model, batch)


def test_graph_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = build_graph(random_model(CompactConfig(**SIZES), seed=1))
    monkeypatch.setattr("cofi.export.graph.build_graph", lambda model: other)
    with pytest.raises(UserError, match="the ONNX graph does not compute what the model does: logits differs by"):
        writer.write_onnx(random_model(CompactConfig(**SIZES), seed=2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_model_of_not_a_number_is_not_written(tmp_path: Path) -> None:
    model = random_model(CompactConfig(**SIZES))
    model.classifier.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="logits differs by nan"):
        writer.write_onnx(model, tmp_path / "model.onnx")


def test_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs the package onnxruntime .*: pip install onnx onnxruntime$"):
        writer.write_onnx(random_model(CompactConfig(**SIZES)), tmp_path / "model.onnx")


@pytest.mark.parametrize("changes", [{}, {"hidden_size": 13, "per_layer_config": CUT}], ids=["dense", "cut"])
def test_transformer_optimizer_fuses_every_attention(changes: dict[str, Any], tmp_path: Path) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    model = random_model(CompactConfig(**(SIZES | changes)))
    writer.write_onnx(model, tmp_path / "model.onnx")
    options = optimizer.FusionOptions("bert")
    options.use_raw_attention_mask(True)  # its default turns the mask into lengths, which is wrong for left padding
    # heads and hidden size 0: taken from the graph, where they differ by layer
    fused = optimizer.optimize_model(str(tmp_path / "model.onnx"), "bert", 0, 0, options, opt_level=0)
    counts = fused.get_fused_operator_statistics()
    assert counts["Attention"] == sum(heads > 0 for heads in model.layout.heads)
    assert counts["BiasGelu"] == sum(size > 0 for size in model.layout.intermediate)
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    batch = random_batch(model.config)
    assert_same(run(session_of(str(tmp_path / "fused.onnx")), batch), model, batch)
