"""Checkpoints as untrusted input: whatever does not fit is one clear error, and nothing of it is executed."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from cofi.errors import UserError
from cofi.models import load_model
from cofi.models.checkpoint import Checkpoint, load_plain

from .tiny import edit_config, edit_weights, hf_directory


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
            ({"num_labels": (1 << 20) + 1}, "num_labels must be an integer"),
            ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be a number"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_configs(self, changes, message, classifier):
        edit_config(classifier, **changes)
        self.fails(classifier, message)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda tensor: tensor.long(), "must hold floating point numbers, got torch.int64"),
            (lambda tensor: tensor.fill_(float("nan")), "must hold finite numbers"),
            (lambda tensor: tensor.fill_(-float("inf")), "must hold finite numbers"),
        ],
        ids=["integers", "nan", "inf"],
    )
    def test_tensors_that_are_no_weights(self, change, message, classifier):
        name = "bert.encoder.layer.1.attention.self.key.bias"
        edit_weights(classifier, lambda w: w.update({name: change(w[name])}))
        self.fails(classifier, f"{name} {message}")

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
        self.fails(classifier, r"config.json (cannot be read as|must hold a JSON object)")

    def test_no_config(self, tmp_path):
        self.fails(tmp_path, "config.json cannot be read: No such file")

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

    def test_a_tensor_is_read_from_the_file_whose_shape_was_checked(self, classifier):
        want = load_model(classifier).model.state_dict()
        (classifier / "model.safetensors").rename(classifier / "z.safetensors")
        torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(3)}, classifier / "a.bin")
        index = {"weight_map": {"bert.pooler.dense.weight": "z.safetensors", "x": "a.bin"}}
        (classifier / "model.safetensors.index.json").write_text(json.dumps(index))
        got = load_model(classifier).model.state_dict()
        assert all(torch.equal(got[name], weight) for name, weight in want.items())

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

    @pytest.mark.filterwarnings("error")  # torch doubts the second's protocol aloud: the error is to be alone
    @pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps(print), b"PK\x03\x04 cut"])
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
        self.fails(pickled, "must unpack to at most")


class TestTensorsThatTheFileDoesNotHold:
    """A file of 2 kB can stand for tensors of terabytes."""

    @pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"w": torch.zeros(1).expand(4096, 1 << 28)}, f"w of shape .* must have {1 << 42} bytes .* got 4$"),
            ({"w": torch.zeros(100)[None].expand(2, 100)}, "w of shape .2, 100. must have 800 bytes .* got 400$"),
            ({"w": torch.empty(1 << 40, device="meta")}, "w must be a dense tensor, got torch.strided on meta"),
            ({"w": torch.eye(3).to_sparse()}, "w must be a dense tensor, got torch.sparse_coo on cpu"),
            (
                {str(i): whole.view(100, 10) for whole in [torch.zeros(1000)] for i in range(100)},
                "at most [0-9]+ bytes together, 2 times those of the file, .* got 400000$",
            ),
        ],
        ids=["expanded", "rows", "meta", "sparse", "views"],
    )
    def test_refused_before_anything_is_copied(self, tensors, message, is_zip, tmp_path):
        torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        with pytest.raises(UserError, match=f"pytorch_model.bin: .*{message}"):
            Checkpoint(tmp_path)

    def test_embeddings_of_a_directory(self, classifier):
        name = "bert.embeddings.word_embeddings.weight"
        weights = load_file(classifier / "model.safetensors") | {name: torch.zeros(1).expand(1 << 20, 24)}
        (classifier / "model.safetensors").unlink()
        torch.save(weights, classifier / "pytorch_model.bin")
        edit_config(classifier, vocab_size=1 << 20)
        with pytest.raises(UserError, match=f"{name} of shape .* bytes in the file, got 4$"):
            load_model(classifier)

    def test_tensors_deep_within(self, tmp_path):
        content = {"state": [{"step": 1, "w": torch.zeros(1).expand(1 << 40)}]}
        torch.save(content, tmp_path / "last.pt")
        with pytest.raises(UserError, match="last.pt: w of shape"):
            load_plain(tmp_path / "last.pt")

    def test_content_that_holds_itself(self, tmp_path):
        content = {"w": torch.ones(3)}
        content["own"] = content
        torch.save(content, tmp_path / "last.pt")
        assert load_plain(tmp_path / "last.pt")["own"]["w"].tolist() == [1, 1, 1]

    def test_tied_weights_load(self, classifier):
        """The decoder that pretraining ties to the embeddings is most of such a file."""
        weights = load_file(classifier / "model.safetensors")
        (classifier / "model.safetensors").unlink()
        weights["bert.embeddings.word_embeddings.weight"] = embeddings = torch.randn(5000, 24)
        tied = {"cls.predictions.decoder.weight": embeddings, "bert.embeddings.word_embeddings.weight": embeddings}
        torch.save(weights | tied, classifier / "pytorch_model.bin")
        edit_config(classifier, vocab_size=5000)
        assert torch.equal(load_model(classifier).model.embeddings.word.weight, embeddings)

    def test_parts_of_one_storage_load(self, tmp_path):
        whole = torch.arange(12.0)
        torch.save({"a": whole[:5], "b": whole[5:].view(7, 1), "c": whole[4:4]}, tmp_path / "pytorch_model.bin")
        checkpoint = Checkpoint(tmp_path)
        assert checkpoint.shapes == {"a": (5,), "b": (7, 1), "c": (0,)}
        assert checkpoint.read("b").flatten().tolist() == whole[5:].tolist()


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
