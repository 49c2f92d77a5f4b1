"""load_model: which head it takes, which formats it reads, and what it says about files that do not fit."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from cofi.errors import UserError
from cofi.models import CompactModel, load_model

from .tiny import HF_SIZES, hf_directory, tiny_config


@pytest.fixture
def classifier(tmp_path):
    """A BERT with three labels and names, as a directory."""
    hf_directory(tmp_path, "bert", "classification", id2label={0: "no", 1: "maybe", 2: "yes"})
    return tmp_path


def edit_config(directory, **changes):
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


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

    def test_token_classifier_is_no_sentence_classifier(self, classifier):
        edit_config(classifier, architectures=["BertForTokenClassification"])
        assert load_model(classifier).model.config.head == "none"
        assert not load_model(classifier, head="classification", num_labels=3).head_trained

    def test_multi_label_head_predicts_something_else(self, classifier):
        edit_config(classifier, problem_type="multi_label_classification")
        assert not load_model(classifier, head="classification", num_labels=3).head_trained

    def test_regression_is_known_by_its_single_output(self, tmp_path):
        hf_directory(tmp_path, "bert", "classification", num_labels=1)
        assert load_model(tmp_path, problem_type="regression").head_trained
        assert not load_model(tmp_path, problem_type="classification").head_trained

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


class TestFilesThatDoNotFit:
    def fails(self, directory, message, **asked):
        with pytest.raises(UserError, match=message):
            load_model(directory, **asked)

    def test_missing_encoder_tensor(self, classifier):
        name = "bert.encoder.layer.1.attention.self.key.bias"
        edit_weights(classifier, lambda w: w.pop(name))
        self.fails(classifier, f"lacks the tensor {name} of shape \\(24,\\)")

    def test_other_shape_than_the_config_says(self, classifier):
        edit_config(classifier, intermediate_size=41)
        self.fails(classifier, r"intermediate.dense.weight must have shape \(41, 24\) by config.json, got \(40, 24\)")

    def test_fewer_layers_in_the_config(self, classifier):
        edit_config(classifier, num_hidden_layers=1)
        self.fails(classifier, "more layers than the 1 of its config.json")

    def test_names_for_another_number_of_labels(self, classifier):
        edit_config(classifier, id2label={"0": "a", "1": "b"})
        self.fails(classifier, "id2label must name the classifier's 3 labels")

    @pytest.mark.parametrize("values", [["a", "b", "c"], {"x": "a", "y": "b", "z": "c"}, {"0": 1, "1": 2, "2": 3}])
    def test_names_that_are_none(self, values, classifier):
        edit_config(classifier, id2label=values)
        self.fails(classifier, "id2label must name the classifier's 3 labels")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_type": "gpt2"}, "model_type must be one of bert, roberta, .* cofi_compact, got 'gpt2'"),
            ({"model_type": ...}, "model_type must be one of .* got None"),
            ({"model_type": ["bert"]}, "model_type must be one of"),
            ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' .* not supported"),
            ({"is_decoder": True}, "is_decoder=True of a bert model is not supported"),
            ({"add_cross_attention": True}, "add_cross_attention=True"),
            ({"pruned_heads": {"0": [1]}}, "pruned_heads="),
            ({"quantization_config": {"bits": 4}}, "quantization_config="),
            ({"hidden_act": "silu"}, "activation must be one of .* got 'silu'"),
            ({"hidden_act": ["gelu"]}, "activation must be one of"),
            ({"hidden_size": "24"}, "hidden_size must be an integer"),
            ({"hidden_size": 1 << 50}, "hidden_size must be an integer"),
            ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer"),
            ({"vocab_size": None}, "vocab_size must be an integer"),
            ({"num_attention_heads": 5}, "head_dim must be given"),
            ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be a number"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_configs(self, changes, message, classifier):
        edit_config(classifier, **changes)
        self.fails(classifier, message)

    def test_padding_index_of_roberta(self, tmp_path):
        hf_directory(tmp_path, "roberta", "base")
        edit_config(tmp_path, pad_token_id=None)
        self.fails(tmp_path, "pad_token_id must be a token number")

    def test_decoder_of_distilbert(self, tmp_path):
        hf_directory(tmp_path, "distilbert", "base")
        edit_config(tmp_path, is_decoder=True)
        self.fails(tmp_path, "is_decoder=True of a distilbert model")

    @pytest.mark.parametrize("text", ["{", "[1]", "\xff", "[" * 100_000], ids=["cut", "list", "bytes", "deep"])
    def test_config_that_is_no_object(self, text, classifier):
        (classifier / "config.json").write_bytes(text.encode("latin-1"))
        self.fails(classifier, r"config.json (cannot be read as JSON|must hold a JSON object)")

    def test_no_config(self, tmp_path):
        self.fails(tmp_path, "config.json cannot be read as JSON")

    def test_no_weights(self, classifier):
        (classifier / "model.safetensors").unlink()
        self.fails(classifier, "has no weights")

    @pytest.mark.parametrize("keep", [0, 7, 200, 0.5, 0.999])
    def test_truncated_weights(self, keep, classifier):
        path = classifier / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
        self.fails(classifier, "model.safetensors is truncated or no safetensors file")

    def test_header_that_asks_for_more_than_there_is(self, classifier):
        header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
        (classifier / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        self.fails(classifier, "model.safetensors is truncated or no safetensors file")

    @pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "weights.pkl", "model-9.safetensors"])
    def test_shards_outside_the_directory(self, name, classifier):
        (classifier / "model.safetensors").rename(classifier / "away.safetensors")
        index = {"weight_map": {"bert.pooler.dense.weight": name}}
        (classifier / "model.safetensors.index.json").write_text(json.dumps(index))
        self.fails(classifier, "must name weight files of its own directory|which is not there")

    @pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}])
    def test_index_without_a_map(self, index, classifier):
        (classifier / "model.safetensors").unlink()
        (classifier / "model.safetensors.index.json").write_text(json.dumps(index))
        self.fails(classifier, "must hold a weight_map")


class TestPickles:
    @pytest.fixture
    def pickled(self, classifier):
        (classifier / "model.safetensors").unlink()
        return classifier

    def fails(self, directory, message):
        with pytest.raises(UserError, match=message):
            load_model(directory)

    def test_code_is_not_run(self, pickled, tmp_path):
        class Harmful:
            def __reduce__(self):
                return (open, (str(tmp_path / "touched"), "w"))

        torch.save({"x": Harmful()}, pickled / "pytorch_model.bin")
        self.fails(pickled, "cannot be loaded as plain tensors")
        (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful(), protocol=2))
        self.fails(pickled, "cannot be loaded as plain tensors")
        assert not (tmp_path / "touched").exists()

    @pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04 cut"])
    def test_no_pickle_at_all(self, data, pickled):
        (pickled / "pytorch_model.bin").write_bytes(data)
        self.fails(pickled, "cannot be loaded as plain tensors")

    def test_something_else_than_tensors(self, pickled):
        torch.save({"epoch": 3}, pickled / "pytorch_model.bin")
        self.fails(pickled, "must hold a dictionary of tensors")

    def test_compressed_archive(self, pickled):
        """Its members could unpack to any size."""
        plain, packed = pickled / "plain.bin", pickled / "pytorch_model.bin"
        torch.save({"x": torch.zeros(100_000)}, plain)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in source.namelist():
                target.writestr(entry, source.read(entry))
        self.fails(pickled, "must not be compressed")


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


@pytest.mark.parametrize("name", ["/no/such/dir", "./no-such-dir", "a/b/c", "not a hub id"])
def test_names_of_nothing(name):
    with pytest.raises(UserError, match="does not exist|neither a directory nor a hub id"):
        load_model(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="got the file"):
        load_model(tmp_path / "x")


def test_memory_is_taken_only_after_the_check(classifier):
    """A config that claims a model of terabytes fails on the shapes of the file."""
    edit_config(classifier, vocab_size=1 << 24, hidden_size=1 << 16, num_attention_heads=64)
    with pytest.raises(UserError, match="must have shape"):
        load_model(classifier)
