"""The teacher's outputs on a disk: the same numbers, taken up again, torn files, room, and whole runs."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from cofi import CompactModel
from cofi.data.batches import collate
from cofi.data.features import load_tokenizer, tokenize
from cofi.data.load import load_splits
from cofi.data.split import Passages
from cofi.errors import UserError
from cofi.models.load import load_model
from cofi.train import loop
from cofi.train import teacher as teacher_module
from cofi.train.__main__ import main as train_main
from cofi.train.teacher import CachedTeacher, Teacher, make_teacher
from cofi.train.teacher_store import Contents, DiskStore, Store, origin
from tests.train.test_run import read_lines, without_times

LAYERS = (0, 1)
ROWS = list(range(64))


@pytest.fixture
def split(checkpoint, data):
    splits = load_splits("animals", data_dir=data)
    return tokenize(splits.train, splits.task, load_tokenizer(checkpoint), 32)


@pytest.fixture
def model(checkpoint):
    return load_model(str(checkpoint), head="classification", num_labels=2).model.eval()


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(teacher_module, "CHUNK_ROWS", 10)  # of 64 rows the last chunk is a short one


def on_disk(model, split, folder):
    contents = Contents.of(model, LAYERS, split, 10)
    return CachedTeacher(model, LAYERS, split, DiskStore(contents, folder, origin(model, split)))


def count_calls(model, monkeypatch):
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    return calls


def assert_equal(got, want):
    assert got.hidden_states.keys() == want.hidden_states.keys()
    for layer in want.hidden_states:
        assert torch.equal(got.hidden_states[layer], want.hidden_states[layer])
    for name in ("logits", "start_logits", "end_logits"):
        g, w = getattr(got, name), getattr(want, name)
        assert (g is None and w is None) or torch.equal(g, w)


def test_the_disk_gives_the_bits_that_memory_gives(model, split, tmp_path):
    ram, disk = CachedTeacher(model, LAYERS, split), on_disk(model, split, tmp_path / "kept")
    for rows in ([63, 5, 17], [5], ROWS):
        batch = collate(split, rows)
        assert_equal(disk(batch), ram(batch))
        torch.testing.assert_close(disk(batch).logits, Teacher(model, LAYERS)(batch).logits, rtol=1e-5, atol=1e-6)


def test_a_later_process_computes_only_what_is_missing(model, split, tmp_path, monkeypatch):
    want = CachedTeacher(model, LAYERS, split)(collate(split, ROWS))
    on_disk(model, split, tmp_path / "kept")(collate(split, [0, 25]))  # chunks 0 and 2 of 7
    calls = count_calls(model, monkeypatch)
    assert_equal(on_disk(model, split, tmp_path / "kept")(collate(split, ROWS)), want)
    assert len(calls) == 5


@pytest.mark.parametrize("where", [0, -1], ids=["a state", "a logit"])
def test_a_torn_chunk_is_computed_again(model, split, tmp_path, where):
    want = on_disk(model, split, tmp_path / "kept")(collate(split, ROWS))
    file = tmp_path / "kept" / "outputs.bin"
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)
    assert_equal(on_disk(model, split, tmp_path / "kept")(collate(split, ROWS)), want)


@pytest.mark.parametrize("missing", ["outputs.bin", "index.bin", "meta.json"])
def test_a_missing_file_starts_anew(model, split, tmp_path, missing):
    want = on_disk(model, split, tmp_path / "kept")(collate(split, ROWS))
    (tmp_path / "kept" / missing).unlink()
    assert_equal(on_disk(model, split, tmp_path / "kept")(collate(split, ROWS)), want)


def test_another_teacher_or_other_rows_start_anew(model, split, tmp_path):
    on_disk(model, split, tmp_path / "kept")(collate(split, ROWS))
    with torch.no_grad():
        model.classifier.bias[0] += 1.0
    batch = collate(split, ROWS)
    assert_equal(on_disk(model, split, tmp_path / "kept")(batch), CachedTeacher(model, LAYERS, split)(batch))
    tokens = split.input_ids.values.copy()
    tokens[1] = 5 if tokens[1] != 5 else 6
    other = dataclasses.replace(split, input_ids=type(split.input_ids)(tokens, split.input_ids.starts))
    batch = collate(other, ROWS)
    assert_equal(on_disk(model, other, tmp_path / "kept")(batch), CachedTeacher(model, LAYERS, other)(batch))


def test_question_answering_and_no_layer(checkpoint, split, tmp_path):
    model = load_model(str(checkpoint), head="question_answering").model.eval()
    passages = Passages(np.arange(64), [], [], [], split.input_ids, split.input_ids)
    split = dataclasses.replace(split, passages=passages, labels=None)
    batch = collate(split, [3, 40])
    for layers in ((), (1,)):
        contents = Contents.of(model, layers, split, 10)
        store = DiskStore(contents, tmp_path / str(layers), origin(model, split))
        assert (tmp_path / str(layers) / "outputs.bin").stat().st_size == contents.n_bytes()
        got, want = CachedTeacher(model, layers, split, store)(batch), CachedTeacher(model, layers, split)(batch)
        assert_equal(got, want)
        torch.testing.assert_close(got.start_logits, Teacher(model, ())(batch).start_logits, rtol=1e-5, atol=1e-6)


def test_auto_prefers_memory_then_the_disk_then_nothing(model, split, tmp_path, monkeypatch):
    folder, need = tmp_path / "kept", Contents.of(model, (1,), split, 10).n_bytes()
    teacher, line = make_teacher(model, (1,), split, "auto", folder)
    assert type(teacher.store) is Store and "in memory" in line and not folder.exists()
    monkeypatch.setattr(teacher_module, "free_bytes", lambda device: need)
    teacher, line = make_teacher(model, (1,), split, "auto", folder)
    assert isinstance(teacher.store, DiskStore) and f"{need / 1e9:.2f} GB" in line and str(folder) in line
    shutil.rmtree(folder)
    monkeypatch.setattr(teacher_module, "free_disk_bytes", lambda path: need)
    teacher, line = make_teacher(model, (1,), split, "auto", folder)
    assert not isinstance(teacher, CachedTeacher) and "computed at every step" in line and not folder.exists()


def test_a_disk_without_room_is_refused_before_anything_is_written(model, split, tmp_path, monkeypatch):
    need = Contents.of(model, (1,), split, 10).n_bytes()
    monkeypatch.setattr(teacher_module, "free_disk_bytes", lambda path: need + 10**9 - 1)
    with pytest.raises(UserError, match="--teacher-cache disk does not fit"):
        make_teacher(model, (1,), split, "disk", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr(teacher_module, "free_disk_bytes", lambda path: need + 10**9)
    assert make_teacher(model, (1,), split, "disk", tmp_path / "kept")[1].startswith("teacher outputs are kept in")
    monkeypatch.setattr(teacher_module, "free_disk_bytes", lambda path: 0)  # what is there already needs no room
    assert "taken up again" in make_teacher(model, (1,), split, "disk", tmp_path / "kept")[1]


def test_a_folder_that_cannot_be_made_is_named(model, split, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--teacher-cache disk: .* cannot be written"):
        make_teacher(model, (1,), split, "disk", tmp_path / "file" / "kept")


class Stop(Exception):
    pass


def test_a_killed_run_goes_on_with_what_is_on_the_disk(flags, tmp_path, monkeypatch):
    """The same losses and the same model as in memory; the folder is gone when the run is finished."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_main([*flags, "--output", str(whole), "--teacher-cache", "ram"]) == 0
    after_step = loop.PhaseLoop._after_step

    def die(self, position, *args):
        after_step(self, position, *args)
        if position.global_step == 14:
            raise Stop

    monkeypatch.setattr(loop.PhaseLoop, "_after_step", die)
    disk = ["--output", str(broken), "--teacher-cache", "disk"]
    with pytest.raises(Stop):
        train_main([*flags, *disk, "--save-seconds", "0"])
    assert (broken / "teacher_outputs" / "outputs.bin").exists()
    monkeypatch.setattr(loop.PhaseLoop, "_after_step", after_step)
    assert train_main([*disk, "--resume"]) == 0
    assert not (broken / "teacher_outputs").exists()
    assert without_times(read_lines(broken / "metrics.jsonl")) == without_times(read_lines(whole / "metrics.jsonl"))
    models = [CompactModel.from_pretrained(run / "model").state_dict() for run in (whole, broken)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
