from __future__ import annotations

import pytest
import torch

from cofi.data.batches import collate
from cofi.data.features import load_tokenizer, tokenize
from cofi.data.load import load_splits
from cofi.errors import UserError
from cofi.models.load import load_model
from cofi.train import teacher as teacher_module
from cofi.train.teacher import CHUNK_ROWS, CachedTeacher, Teacher, make_teacher
from cofi.train.teacher_store import Contents


@pytest.fixture
def parts(checkpoint, data):
    splits = load_splits("animals", data_dir=data)
    split = tokenize(splits.train, splits.task, load_tokenizer(checkpoint), 32)
    return load_model(str(checkpoint), head="classification", num_labels=2).model.eval(), split


def need(model, layers, split):
    return Contents.of(model, layers, split, CHUNK_ROWS).n_bytes()


def test_the_cache_gives_what_the_teacher_computes(parts, monkeypatch):
    model, split = parts
    monkeypatch.setattr(teacher_module, "CHUNK_ROWS", 10)  # 64 rows: the last chunk is a short one
    plain, cached = Teacher(model, (0, 1)), CachedTeacher(model, (0, 1), split)
    for rows in ([63, 5, 17], [5], list(range(64))):
        batch = collate(split, rows)
        want, got = plain(batch), cached(batch)
        torch.testing.assert_close(got.logits, want.logits, rtol=1e-5, atol=1e-6)
        assert got.hidden_states.keys() == {0, 1}
        for layer in (0, 1):
            torch.testing.assert_close(got.hidden_states[layer], want.hidden_states[layer], rtol=1e-5, atol=1e-5)


def test_cached_values_do_not_depend_on_the_order_of_asking(parts):
    model, split = parts
    one, other = CachedTeacher(model, (1,), split), CachedTeacher(model, (1,), split)
    other(collate(split, [40, 2]))
    rows = [7, 40, 2]
    assert torch.equal(one(collate(split, rows)).hidden_states[1], other(collate(split, rows)).hidden_states[1])


def test_a_row_is_computed_once(parts, monkeypatch):
    model, split = parts
    calls = []
    monkeypatch.setattr(model, "forward", lambda *a, _forward=model.forward, **k: calls.append(1) or _forward(*a, **k))
    cached = CachedTeacher(model, (), split)
    for _ in range(3):
        cached(collate(split, [1, 2, 3]))
    assert len(calls) == 1


def test_size_is_that_of_the_kept_tensors(parts):
    model, split = parts
    cached = CachedTeacher(model, (0, 1), split)
    kept = [*cached.store.kept.states.values(), *cached.store.kept.outputs.values()]
    assert need(model, (0, 1), split) == sum(t.numel() * t.element_size() for t in kept)


def test_auto_leaves_the_cache_out_where_memory_is_short(parts, monkeypatch):
    model, split = parts
    assert isinstance(make_teacher(model, (1,), split, "auto")[0], CachedTeacher)
    monkeypatch.setattr(teacher_module, "free_bytes", lambda device: need(model, (1,), split) + 1)
    assert not isinstance(make_teacher(model, (1,), split, "auto")[0], CachedTeacher)
    assert isinstance(make_teacher(model, (1,), split, "ram")[0], CachedTeacher)
    monkeypatch.setattr(teacher_module, "free_bytes", lambda device: 10)
    with pytest.raises(UserError, match="--teacher-cache ram does not fit"):
        make_teacher(model, (1,), split, "ram")


def test_memory_that_a_control_group_leaves_is_what_is_free(parts, monkeypatch):
    model, split = parts
    monkeypatch.setattr(teacher_module, "free_host_bytes", lambda: need(model, (1,), split) + 1)
    assert not isinstance(make_teacher(model, (1,), split, "auto")[0], CachedTeacher)
