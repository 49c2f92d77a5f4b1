"""From a hub id to a directory: what is asked of the hub, and what is said when it cannot be had."""

from __future__ import annotations

import fnmatch
import shutil

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from cofi.errors import UserError
from cofi.models import hub, load_model

from .tiny import hf_directory


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A hub of one repository; gives its folder and the list of downloads."""
    folder, cache, calls = tmp_path / "repository", tmp_path / "cache", []
    folder.mkdir()
    cache.mkdir()

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision))
        for file in (path for path in folder.rglob("*") if path.is_file()):
            name = str(file.relative_to(folder))
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(exist_ok=True)
                shutil.copy(file, cache / name)
        return str(cache)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return folder, cache, calls


def test_only_what_is_needed_is_downloaded(repository):
    folder, cache, calls = repository
    hf_directory(folder, "bert", "classification", num_labels=3)
    (folder / "onnx").mkdir()
    for name in ("tokenizer.json", "vocab.txt", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"):
        (folder / name).write_text("x")
    loaded = load_model("someone/some-model", revision="main")
    assert calls == [("someone/some-model", "main")]
    assert loaded.tokenizer_path == cache
    found = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}


def test_pickled_weights_only_where_there_are_no_others(repository):
    folder, cache, calls = repository
    for name in ("config.json", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    assert hub.local_directory("some-model") == cache
    assert len(calls) == 2
    assert (cache / "pytorch_model.bin").exists()


@pytest.mark.parametrize(
    "error",
    [LocalEntryNotFoundError("no such file in the cache\nand more"), ConnectionError(""), OSError("offline")],
    ids=lambda error: type(error).__name__,
)
def test_hub_that_cannot_be_reached(error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="'some/model' is no directory, and the hub gave no such model: .+"):
        load_model("some/model")


def test_directory_wins_over_the_hub(repository, tmp_path, monkeypatch):
    _, _, calls = repository
    (tmp_path / "bert").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.local_directory("bert").samefile(tmp_path / "bert")
    assert calls == []
