"""load_model: which head it takes and which formats it reads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from cofi.errors import UserError
from cofi.models import CompactModel, load_model, save_model

from .tiny import HF_SIZES, edit_config, edit_weights, hf_directory, padded_inputs, tiny_config


def same_encoder(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items() if "layers" in name)


class TestHeads:
    def test_the_trained_one_with_its_names(self, classifier):
        loaded = load_model(classifier)
        assert loaded.head_trained
        assert loaded.model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
        assert loaded.model.config.label2id == {"no": 0, "maybe": 1, "yes": 2}
        assert loaded.tokenizer_path == classifier
        assert not loaded.model.training

    @pytest.mark.parametrize(
        ("asked", "trained"),
        [
            ({"head": "classification"}, True),
            ({"head": "classification", "num_labels": 3}, True),
            ({"head": "classification", "num_labels": 3, "problem_type": "classification"}, True),
            ({"num_labels": 3}, True),
            ({"num_labels": 3, "label_names": ("Yes", "no", "maybe")}, True),
            ({"num_labels": 3, "label_names": ("0", "1", "2")}, True),
            ({"num_labels": 3, "label_names": ("entailment", "neutral", "contradiction")}, False),
            ({"head": "classification", "num_labels": 2}, False),
            ({"head": "classification", "problem_type": "regression"}, False),
            ({"head": "question_answering"}, False),
            ({"head": "none"}, False),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("source", ["hf", "compact"])
    def test_taken_only_where_it_fits(self, asked, trained, source, classifier, tmp_path):
        if source == "compact":
            load_model(classifier).model.save_pretrained(tmp_path / "compact")
            classifier = tmp_path / "compact"
        own = load_model(classifier)
        loaded = load_model(classifier, **asked)
        assert loaded.head_trained is trained
        assert same_encoder(own.model, loaded.model)
        config = loaded.model.config
        assert config.head == asked.get("head", "classification")
        if config.head == "classification":
            assert config.is_regression == (asked.get("problem_type") == "regression")
            assert config.num_labels == asked.get("num_labels", 1 if config.is_regression else 3)
            assert torch.equal(loaded.model.pooler.weight, own.model.pooler.weight)  # BERT's is pretrained
            kept = torch.equal(loaded.model.classifier.weight, own.model.classifier.weight)
            assert kept is trained

    @pytest.mark.parametrize("model_type", HF_SIZES)
    def test_new_one_on_a_base_model_is_drawn_from_the_seed(self, model_type, tmp_path):
        hf_directory(tmp_path, model_type, "base")
        loaded, again, other = (
            load_model(tmp_path, head="classification", num_labels=4, seed=seed) for seed in (1, 1, 2)
        )
        assert not loaded.head_trained
        weights = [model.model.classifier.weight for model in (loaded, again, other)]
        assert weights[0].shape == (4, 24)
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert 0.01 < weights[0].std().item() < 0.03
        assert (loaded.model.classifier.bias == 0).all()

    def test_token_classifier_is_no_sentence_classifier(self, classifier, tmp_path):
        edit_config(classifier, architectures=["BertForTokenClassification"])
        for source in (classifier, save_model(load_model(classifier).model, None, tmp_path / "compact")):
            assert load_model(source).model.config.head == "token_classification"
            assert load_model(source, head="token_classification", num_labels=3).head_trained
            assert not load_model(source, head="token_classification", num_labels=5).head_trained
            sentences = load_model(source, head="classification", num_labels=3)
            assert not sentences.head_trained and sentences.model.pooler is not None
        assert load_model(source, head="none").model.pooler is None  # of which nothing was kept
        edit_config(classifier, architectures=["BertForMaskedLM"])
        assert load_model(classifier).model.config.head == "none"

    def test_several_labels_are_another_problem_than_one(self, classifier, tmp_path):
        edit_config(classifier, problem_type="multi_label_classification")
        for source in (classifier, save_model(load_model(classifier).model, None, tmp_path / "compact")):
            assert load_model(source).model.config.problem == "multi_label_classification"
            assert load_model(source, num_labels=3, problem_type="multi_label").head_trained
            assert not load_model(source, num_labels=3, problem_type="classification").head_trained

    def test_their_loss_is_that_of_transformers(self, classifier):
        edit_config(classifier, problem_type="multi_label_classification")
        theirs = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
        inputs, labels = padded_inputs(), torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 1, 1]])
        with torch.no_grad():
            ours, want = (model(**inputs, labels=labels) for model in (load_model(classifier).model, theirs))
        torch.testing.assert_close(ours.logits, want.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.loss, want.loss, rtol=1e-4, atol=1e-5)

    def test_regression_is_known_by_its_single_output(self, tmp_path):
        hf_directory(tmp_path, "bert", "classification", num_labels=1)
        assert load_model(tmp_path, problem_type="regression").head_trained
        assert not load_model(tmp_path, problem_type="classification").head_trained

    @pytest.mark.parametrize("source", ["hf", "compact"])
    @pytest.mark.parametrize("lost", ["classifier.bias", "classifier.weight", "pooler.bias"])
    def test_one_that_is_there_in_part_is_refused(self, lost, source, classifier, tmp_path):
        """What is missing would be drawn at random, and pass for trained."""
        if source == "compact":
            load_model(classifier).model.save_pretrained(tmp_path / "compact")
            classifier = tmp_path / "compact"
        part, _, kind = lost.partition(".")
        names = {"compact": lost, "hf": f"bert.pooler.dense.{kind}" if part == "pooler" else lost}
        edit_weights(classifier, lambda weights: weights.pop(names[source]))
        if source == "hf" and kind == "weight":  # nothing says then that it was trained
            assert load_model(classifier).model.config.head == "none"
            return
        with pytest.raises(UserError, match=rf"lacks the tensor {names[source]} of shape .* \(for {lost}\)"):
            load_model(classifier)

    def test_pooler_of_a_base_model_may_be_absent(self, tmp_path):
        hf_directory(tmp_path, "bert", "question_answering")
        loaded = load_model(tmp_path, head="none")
        assert loaded.model.pooler is None
        assert load_model(tmp_path, head="classification").model.pooler.weight.shape == (24, 24)

    @pytest.mark.parametrize(
        ("asked", "message"),
        [({"head": "tokens"}, "head must be one of"), ({"problem_type": "ranking"}, "problem_type must be one of")],
    )
    def test_bad_arguments(self, asked, message, classifier):
        with pytest.raises(ValueError, match=message):
            load_model(classifier, **asked)


class TestFormats:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
    def test_other_precisions_become_fp32(self, dtype, classifier):
        expected = load_model(classifier).model.state_dict()
        edit_weights(classifier, lambda w: w.update({name: t.to(dtype) for name, t in w.items()}))
        found = load_model(classifier).model.state_dict()
        for name, value in expected.items():
            assert found[name].dtype == torch.float32
            assert torch.equal(found[name], value.to(dtype).float()), name

    def test_pickled_weights(self, classifier):
        expected = load_model(classifier).model.state_dict()
        torch.save(load_file(classifier / "model.safetensors"), classifier / "pytorch_model.bin")
        (classifier / "model.safetensors").unlink()
        found = load_model(classifier).model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())

    def test_safetensors_are_preferred(self, classifier):
        (classifier / "pytorch_model.bin").write_bytes(b"never read")
        assert load_model(classifier).head_trained

    @pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
    def test_shards(self, pickled, classifier):
        expected = load_model(classifier).model.state_dict()
        weights = load_file(classifier / "model.safetensors")
        (classifier / "model.safetensors").unlink()
        stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
        weight_map = {}
        for i in range(2):
            shard = dict(list(weights.items())[i::2])
            name = f"{stem}-{i}.{suffix}"
            (torch.save if pickled else save_file)(shard, classifier / name)
            weight_map |= dict.fromkeys(shard, name)
        (classifier / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
        found = load_model(classifier).model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())

    def test_names_of_tensorflow(self, classifier):
        expected = load_model(classifier).model.state_dict()

        def rename(weights):
            for name in [name for name in weights if "LayerNorm" in name]:
                old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                weights[old] = weights.pop(name)

        edit_weights(classifier, rename)
        found = load_model(classifier).model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())

    def test_loaded_weights_do_not_follow_the_file(self, classifier):
        model = load_model(classifier).model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        path = classifier / "model.safetensors"
        with path.open("r+b") as file:  # in place: the same bytes that a mapped tensor would look at
            file.write(b"\0" * path.stat().st_size)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestCompactDirectory:
    @pytest.fixture
    def saved(self, tmp_path):
        layers = {0: {"num_attention_heads": 2, "intermediate_size": 7}, 1: {"num_attention_heads": 0}}
        model = CompactModel(tiny_config(head="classification", num_labels=3, per_layer_config=layers)).eval()
        model.save_pretrained(tmp_path)
        return tmp_path, model

    def test_round_trip(self, saved):
        directory, model = saved
        loaded = load_model(directory)
        assert loaded.head_trained
        assert loaded.model.config.layout() == model.config.layout()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.model.state_dict().items())

    def test_weight_that_the_model_does_not_have(self, saved):
        directory, _ = saved
        edit_weights(directory, lambda w: w.update({"layers.1.attention.b_out": torch.zeros(24)}))
        with pytest.raises(UserError, match="holds layers.1.attention.b_out, which the model of its config.json"):
            load_model(directory)

    def test_layers_that_do_not_fit(self, saved):
        directory, _ = saved
        edit_config(directory, per_layer_config={})
        with pytest.raises(UserError, match=r"layers.0.attention.w_qkv must have shape \(3, 24, 24\)"):
            load_model(directory)
