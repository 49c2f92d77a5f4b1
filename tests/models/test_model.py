"""CompactModel: borders, heads and the two routes through the encoder."""

from __future__ import annotations

import pytest
import torch

import cofi_kernels
from cofi.models import CompactConfig, CompactModel, from_lists, load_model, pack_padded, pad_packed

from .tiny import flipped, hf_directory, model_of, padded_inputs, random_masks

PRUNED = {
    0: {"num_attention_heads": 1, "intermediate_size": 7},
    1: {"num_attention_heads": 0},
    2: {"intermediate_size": 0},
    3: {"num_attention_heads": 0, "attention_bias_only": True, "intermediate_size": 0, "ffn_bias_only": True},
    4: {"num_attention_heads": 0, "intermediate_size": 0},
}


def test_the_example_of_the_documentation():
    with torch.device("meta"):
        model = CompactModel(
            CompactConfig(
                hidden_size=764,
                head_dim=64,
                num_hidden_layers=12,
                per_layer_config={0: {"num_attention_heads": 2, "intermediate_size": 500}},
            )
        )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["layers.0.attention.w_qkv"] == (3, 128, 764)
    assert shapes["layers.0.ffn.w_down"] == (500, 764)
    assert shapes["layers.11.attention.w_out"] == (768, 764)
    assert shapes["layers.11.ffn.w_up"] == (3072, 764)


def test_removed_sublayers_have_no_parameters_and_change_nothing():
    model = model_of(num_hidden_layers=5, per_layer_config=PRUNED)
    names = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters()}
    assert "layers.1.attention" not in names
    assert "layers.2.ffn" not in names
    assert {"layers.3.attention", "layers.3.ffn"} <= names
    assert not any(name.startswith("layers.4.") for name in names)
    states = model(**padded_inputs(), output_hidden_states=True).hidden_states
    assert torch.equal(states[5], states[4])
    assert not torch.allclose(states[4], states[3])  # bias and LayerNorm only, but that


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
def test_both_routes_agree(pruned):
    """Inference runs compact_encoder; with states asked for, layer by layer."""
    changes = {"num_hidden_layers": 5, "per_layer_config": PRUNED} if pruned else {}
    model = model_of(head="classification", num_labels=3, **changes)
    inputs = padded_inputs()
    with torch.no_grad():
        fused = model(**inputs)
        layered = model(**inputs, output_hidden_states=True)
    assert fused.hidden_states is None
    torch.testing.assert_close(fused.last_hidden_state, layered.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(fused.logits, layered.logits, rtol=0, atol=1e-5)


def test_route_is_chosen_by_what_is_asked(monkeypatch):
    model, inputs, calls = model_of(), padded_inputs(), []
    monkeypatch.setattr("cofi.models.model.run_direct", lambda *_: None)
    original = cofi_kernels.compact_encoder
    monkeypatch.setattr(cofi_kernels, "compact_encoder", lambda *a, **k: calls.append(1) or original(*a, **k))
    with torch.no_grad():
        model(**inputs)
    assert len(calls) == 1
    model(**inputs)  # with gradients
    with torch.no_grad():
        model(**inputs, output_hidden_states=True)
        model(**inputs, masks=random_masks())
        model.train()(**inputs)
    assert len(calls) == 1


@pytest.mark.parametrize("head", ["classification", "token_classification", "question_answering"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(head, side):
    """Padded on either side, packed, or alone: the same numbers."""
    model = model_of(head=head, num_labels=3)
    inputs = padded_inputs()
    given = inputs if side == "right" else flipped(inputs)
    mask = given["attention_mask"] != 0
    with torch.no_grad():
        padded = model(**given)
        packed = model(batch=pack_padded(**inputs))
    torch.testing.assert_close(padded.last_hidden_state[mask], packed.last_hidden_state)
    if head == "classification":
        torch.testing.assert_close(padded.logits, packed.logits)
    elif head == "token_classification":
        torch.testing.assert_close(padded.logits[mask], packed.logits)
        assert padded.logits.shape == (3, 9, 3) and (padded.logits[~mask] == 0).all()
        torch.testing.assert_close(model(**given).logits, padded.logits)  # with gradients
    else:
        torch.testing.assert_close(padded.start_logits[mask], packed.start_logits)
        torch.testing.assert_close(padded.end_logits[mask], packed.end_logits)
    for row in range(3):
        alone = model(**{name: value[row : row + 1, mask[row]] for name, value in given.items()})
        torch.testing.assert_close(
            padded.last_hidden_state[row, mask[row]], alone.last_hidden_state[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("side", ["right", "left"])
def test_span_loss_is_that_of_each_examples_own_tokens(side):
    model = model_of(head="question_answering")
    inputs = padded_inputs()
    shift = torch.tensor([0, 3, 8]) if side == "left" else torch.zeros(3, dtype=torch.long)
    lengths = inputs["attention_mask"].sum(1)
    start, end = torch.tensor([2, 5, 0]) + shift, torch.tensor([8, 7, 0]) + shift  # the second end is behind its text
    output = model(**(flipped(inputs) if side == "left" else inputs), start_positions=start, end_positions=end)
    losses = []
    for logits, targets in ((output.start_logits, start), (output.end_logits, end)):
        rows = [
            torch.nn.functional.cross_entropy(logits[i][logits[i] > -1e30], targets[i] - shift[i])
            for i in range(3)
            if targets[i] - shift[i] < lengths[i]
        ]
        losses.append(torch.stack(rows).mean())
    torch.testing.assert_close(output.loss, sum(losses) / 2)
    packed = model(batch=pack_padded(**inputs), start_positions=start - shift, end_positions=end - shift)
    torch.testing.assert_close(packed.loss, output.loss)


def test_span_loss_without_any_answer_inside_is_zero():
    model = model_of(head="question_answering")
    outside = torch.full((3,), 9)
    loss = model(**padded_inputs(), start_positions=outside, end_positions=outside).loss
    assert loss.item() == 0.0


@pytest.mark.parametrize("pooler", ["none", "tanh", "relu", "gelu"])
def test_pooler(pooler):
    model, inputs = model_of(pooler=pooler), padded_inputs()
    output = model(**inputs)
    first = output.last_hidden_state[:, 0]
    if pooler == "none":
        assert output.pooler_output is None
        return
    act = {"tanh": torch.tanh, "relu": torch.relu, "gelu": torch.nn.functional.gelu}[pooler]
    expected = act(first @ model.pooler.weight.T + model.pooler.bias)
    torch.testing.assert_close(output.pooler_output, expected)


def test_classifier_reads_a_pooler_of_another_size():
    model = model_of(head="classification", pooler_size=10, num_labels=3)
    assert model.classifier.weight.shape == (3, 10)
    assert model(**padded_inputs()).logits.shape == (3, 3)


def test_tuple_output():
    model, inputs = model_of(head="classification"), padded_inputs()
    output = model(**inputs)
    plain = model(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert all(torch.equal(ours, want) for ours, want in zip(plain, output.to_tuple(), strict=True))
    loss, logits = model(**inputs, labels=torch.zeros(3), return_dict=False)[:2]
    assert loss.dim() == 0
    assert torch.equal(logits, output.logits)


def test_the_first_output_is_transformers_own(tmp_path):
    """Its pipelines, among others, read outputs by their place."""
    base = hf_directory(tmp_path, "bert", "base")
    inputs = padded_inputs()
    with torch.no_grad():
        states, pooled = load_model(tmp_path).model(**inputs)[:2]
        want = base(**inputs)
    tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(states[tokens], want[0][tokens], rtol=0, atol=2e-5)
    torch.testing.assert_close(pooled, want[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        (
            {"head": "classification", "problem_type": "regression", "num_labels": 1},
            {"labels": torch.zeros(1)},
            r"\(3,\), got \(1,\)",
        ),
        ({"head": "embedding"}, {"labels": torch.zeros(24)}, r"labels must have shape \(3, 24\), got \(24,\)"),
        (
            {"head": "question_answering"},
            dict.fromkeys(("start_positions", "end_positions"), torch.zeros(2)),
            r"\(3,\), got \(2,\)",
        ),
    ],
    ids=["regression", "embedding", "span"],
)
def test_labels_that_would_be_broadcast(fields, labels, message):
    with pytest.raises(ValueError, match=message):
        model_of(**fields)(**padded_inputs(), **labels)


@pytest.mark.parametrize("grad", [True, False])
def test_numbers_beyond_their_table(grad):
    ids = torch.zeros(1, 3, dtype=torch.long)
    with torch.set_grad_enabled(grad):
        with pytest.raises(IndexError, match=r"ids must be in \[0, 97\), the rows of its table, got 97 to 97"):
            model_of()(ids + 97)
        with pytest.raises(IndexError, match=r"types?.* must be in \[0, 2\), .* got 5 to 5"):
            model_of()(ids, token_type_ids=ids + 5)
    with pytest.raises(TypeError, match="input_ids must be integers, got torch.float32"):
        model_of()(ids.float())


def test_packed_states_match_padded_states():
    model, inputs = model_of(), padded_inputs()
    batch = pack_padded(**inputs)
    packed = model(batch=batch, output_hidden_states=True).hidden_states
    padded = model(**inputs, output_hidden_states=True).hidden_states
    for ours, want in zip(packed, padded, strict=True):
        assert ours.shape == (batch.n_tokens, 24)
        torch.testing.assert_close(pad_packed(ours, batch.cu_seqlens, 9), want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, i: m(), "exactly one of input_ids and batch"),
        (lambda m, i: m(**i, batch=from_lists([[1]])), "batch must be given alone"),
        (lambda m, i: m(attention_mask=i["attention_mask"], batch=from_lists([[1]])), "batch must be given alone"),
        (lambda m, i: m(input_ids=torch.ones(1, 41, dtype=torch.long)), "at most 40 tokens, got 41"),
        (lambda m, i: m(**i, labels=torch.zeros(3)), "labels need a classification head"),
        (lambda m, i: m(**i, **_span()), "positions need a question answering head"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call(model_of(), padded_inputs())


def _span():
    return {"start_positions": torch.zeros(3), "end_positions": torch.zeros(3)}


def test_half_a_span():
    with pytest.raises(ValueError, match="given together"):
        model_of(head="question_answering")(**padded_inputs(), start_positions=torch.zeros(3))
