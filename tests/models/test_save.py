"""save_model: a directory is whole or not there."""

from __future__ import annotations

import os

import pytest
import torch

from cofi.models import CompactModel, load_model, save_model

from .tiny import tiny_config


@pytest.fixture
def model():
    return CompactModel(tiny_config(head="classification")).eval()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_round_trip_with_a_tokenizers_files(model, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "config.json", "notes.md"):
        (source / name).write_text(name)
    saved = save_model(model, source, tmp_path / "runs" / "model")
    assert names(saved) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert (saved / "vocab.txt").read_text() == "vocab.txt"
    loaded = load_model(saved).model
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_tokenizer_object(model, tmp_path):
    class Tokenizer:
        def save_pretrained(self, directory):
            (directory / "tokenizer.json").write_text("{}")

    assert "tokenizer.json" in names(save_model(model, Tokenizer(), tmp_path / "model"))


def test_old_directory_is_replaced_whole(model, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "left over.txt").write_text("old")
    save_model(model, None, target)
    assert names(target) == ["config.json", "model.safetensors"]
    assert names(tmp_path) == ["model"]


def test_failure_leaves_the_old_directory(model, tmp_path):
    target = save_model(model, None, tmp_path / "model")

    class Broken:
        def save_pretrained(self, directory):
            raise OSError("disk full")

    before = names(target)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, Broken(), target)
    assert names(target) == before
    assert names(tmp_path) == ["model"]


def test_failing_rename_leaves_the_old_directory(model, tmp_path, monkeypatch):
    target = save_model(model, None, tmp_path / "model")
    (target / "mark").write_text("old")
    rename = os.replace

    def fail_for_the_new(source, destination):
        if source.name == "new":
            raise OSError("no")
        rename(source, destination)

    monkeypatch.setattr(os, "replace", fail_for_the_new)
    with pytest.raises(OSError, match="no"):
        save_model(model, None, target)
    assert (target / "mark").read_text() == "old"
    assert names(tmp_path) == ["model"]
