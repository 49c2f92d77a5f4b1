"""Every family against Hugging Face's own model: states, logits, losses, gradients."""

from __future__ import annotations

import pytest
import torch

from cofi.models import load_model, pack_padded
from cofi.models.families import FAMILIES

from .tiny import HF_SIZES, flipped, hf_directory, padded_inputs

ATOL = 1e-5


def family_inputs(model_type):
    return padded_inputs(types={"distilbert": 0, "xlm-roberta": 1}.get(model_type, 2))


def reference_inputs(model, inputs):
    """RoBERTa counts positions by the padding token, so its inputs must hold it where there is padding."""
    padding = model.config.pad_token_id
    return inputs | {"input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, padding)}


def test_every_family_is_tested():
    assert FAMILIES.keys() == HF_SIZES.keys()


@pytest.mark.parametrize("model_type", HF_SIZES)
def test_states_of_the_base_model(model_type, tmp_path):
    reference = hf_directory(tmp_path, model_type, "base")
    loaded = load_model(tmp_path)
    assert loaded.model.config.head == "none"
    assert not loaded.head_trained
    inputs = reference_inputs(reference, family_inputs(model_type))
    is_token = inputs["attention_mask"] != 0
    with torch.no_grad():
        ours = loaded.model(**inputs, output_hidden_states=True)
        theirs = reference(**inputs, output_hidden_states=True)
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for state, want in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(state[is_token], want[is_token], rtol=0, atol=ATOL)
        assert (state[~is_token] == 0).all()
    want = getattr(theirs, "pooler_output", None)
    assert (ours.pooler_output is None) == (want is None)
    if want is not None:
        torch.testing.assert_close(ours.pooler_output, want, rtol=0, atol=ATOL)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("model_type", HF_SIZES)
def test_classification_and_regression(model_type, labels, tmp_path):
    reference = hf_directory(tmp_path, model_type, "classification", num_labels=labels)
    loaded = load_model(tmp_path)
    assert loaded.head_trained
    assert loaded.model.config.num_labels == labels
    inputs = reference_inputs(reference, family_inputs(model_type))
    targets = torch.randn(3) if labels == 1 else torch.tensor([2, 0, 1])
    with torch.no_grad():
        ours = loaded.model(**inputs, labels=targets)
        theirs = reference(**inputs, labels=targets)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=ATOL)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=ATOL)


@pytest.mark.parametrize("model_type", HF_SIZES)
def test_token_classification(model_type, tmp_path):
    reference = hf_directory(tmp_path, model_type, "token_classification", num_labels=3)
    loaded = load_model(tmp_path)
    assert loaded.head_trained and loaded.model.config.head == "token_classification"
    inputs = reference_inputs(reference, family_inputs(model_type))
    is_token = inputs["attention_mask"] != 0
    labels = (torch.arange(27).view(3, 9) % 4 - 1).masked_fill(~is_token, -100)
    labels[labels == -1] = -100
    with torch.no_grad():
        ours, theirs = (model(**inputs, labels=labels) for model in (loaded.model, reference))
    torch.testing.assert_close(ours.logits[is_token], theirs.logits[is_token], rtol=0, atol=ATOL)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=ATOL)
    packed = loaded.model(batch=pack_padded(**inputs), labels=labels[is_token])
    torch.testing.assert_close(packed.loss, ours.loss, rtol=1e-5, atol=ATOL)


@pytest.mark.parametrize("model_type", HF_SIZES)
def test_question_answering(model_type, tmp_path):
    reference = hf_directory(tmp_path, model_type, "question_answering")
    loaded = load_model(tmp_path)
    assert loaded.head_trained
    inputs = {name: value[:1] for name, value in family_inputs(model_type).items()}  # the row without padding
    spans = {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([4])}
    with torch.no_grad():
        ours = loaded.model(**inputs, **spans)
        theirs = reference(**inputs, **spans)
    torch.testing.assert_close(ours.start_logits, theirs.start_logits, rtol=0, atol=ATOL)
    torch.testing.assert_close(ours.end_logits, theirs.end_logits, rtol=0, atol=ATOL)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=ATOL)


@pytest.mark.parametrize("model_type", HF_SIZES)
def test_gradients(model_type, tmp_path):
    """Of every weight, through the family's own table."""
    reference = hf_directory(tmp_path, model_type, "classification", num_labels=3)
    model = load_model(tmp_path).model
    inputs = reference_inputs(reference, family_inputs(model_type))
    targets = torch.tensor([2, 0, 1])
    model(**inputs, labels=targets).loss.backward()
    reference(**inputs, labels=targets).loss.backward()
    family = FAMILIES[model_type]
    theirs = dict(reference.named_parameters())
    sources = family.sources(family.prefix, len(model.layers))
    compared = 0
    for name, parameter in model.named_parameters():
        if name not in sources:
            continue
        want = sources[name].convert([theirs[each].grad for each in sources[name].names])
        torch.testing.assert_close(parameter.grad, want, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
        compared += 1
    assert compared == len(list(model.parameters())) - 4  # all but pooler and classifier


@pytest.mark.parametrize("model_type", ["roberta", "bert"])
def test_padding_on_the_left(model_type, tmp_path):
    """RoBERTa counts tokens, as we do; to BERT, which counts columns, the positions must be told."""
    reference = hf_directory(tmp_path, model_type, "base")
    model = load_model(tmp_path).model
    inputs = reference_inputs(reference, flipped(family_inputs(model_type)))
    positions = {} if model_type == "roberta" else {"position_ids": torch.arange(9).expand(3, 9)}
    with torch.no_grad():
        ours, theirs = model(**inputs, **positions), reference(**inputs)
    is_token = inputs["attention_mask"] != 0
    torch.testing.assert_close(ours.last_hidden_state[is_token], theirs.last_hidden_state[is_token], rtol=0, atol=ATOL)


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_activations(act, tmp_path):
    reference = hf_directory(tmp_path, "bert", "base", hidden_act=act)
    model = load_model(tmp_path).model
    inputs = family_inputs("bert")
    with torch.no_grad():
        ours, theirs = model(**inputs), reference(**inputs)
    is_token = inputs["attention_mask"] != 0
    torch.testing.assert_close(ours.last_hidden_state[is_token], theirs.last_hidden_state[is_token], rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("model_type", "task", "dropout"),
    [
        ("bert", "classification", 0.07),
        ("bert", "token_classification", 0.07),
        ("bert", "question_answering", 0.0),
        ("roberta", "classification", 0.07),
        ("electra", "classification", 0.07),
    ],
)
def test_dropout_before_the_head(model_type, task, dropout, tmp_path):
    hf_directory(tmp_path, model_type, task, classifier_dropout=0.07)
    assert load_model(tmp_path).model.config.head_dropout == dropout


def test_dropout_before_the_heads_of_distilbert(tmp_path):
    for task, expected in (("classification", 0.15), ("token_classification", 0.1), ("question_answering", 0.25)):
        hf_directory(tmp_path / task, "distilbert", task, seq_classif_dropout=0.15, qa_dropout=0.25)
        assert load_model(tmp_path / task).model.config.head_dropout == expected
