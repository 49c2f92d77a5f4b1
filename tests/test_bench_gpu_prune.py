"""The steps that python -m bench.gpu makes a whole prune of: those that training takes."""

from __future__ import annotations

import time

import pytest
import torch

from bench.gpu import prune
from bench.gpu.bench import Bench
from bench.gpu.prune import Passes
from bench.gpu.record import Record
from bench.gpu.sizes import SMOKE, Sizes
from cofi.train.shares import take_share
from cofi.train.teacher import AUTO_SHARE, CachedTeacher, Teacher


def bench_of(folder, sizes: Sizes = SMOKE) -> Bench:
    return Bench(sizes, Record(folder, {"device": "cpu", "cpu": "none"}), smoke=True)


@pytest.fixture
def split():
    return prune.split_of(SMOKE, [12, 13, 14, 40, 30, 20])


@pytest.mark.parametrize("teacher", [Teacher, CachedTeacher], ids=["computed", "cached"])
def test_steps_are_those_of_training(tmp_path, split, teacher):
    """Batches come from the host, are padded to forms that recur, and recorded; the teacher is one of cofi.train."""
    passes = Passes(bench_of(tmp_path), 0.5, split, cached=teacher is CachedTeacher)
    assert type(passes.run.objective.teacher) is teacher
    gates = passes.run.student.gates
    gates.clamp_()  # as after every step
    before = gates.loga.detach().clone()
    for _ in range(prune.WARM_PASSES):
        passes()
    captured = passes.take_step._captured
    assert set(captured) == {(64, 4, 32), (128, 4, 64)}  # tokens, sentences and one of padding, longest
    assert all(step.batch.packed.is_padded for step in captured.values())
    assert all((step.target is not None) == (teacher is CachedTeacher) for step in captured.values())
    assert passes.step == 2 * prune.WARM_PASSES and passes.heard == []
    assert torch.equal(gates.loga, before)  # the live fraction is what the time is recorded for


def test_making_and_copying_a_batch_counts(tmp_path, split, monkeypatch):
    def slow(*args):
        time.sleep(0.3)
        return take_share(*args)

    passes = Passes(bench_of(tmp_path), 1.0, split, cached=False)
    monkeypatch.setattr(prune, "take_share", slow)
    assert passes() > 0.3


def test_both_teachers_are_extrapolated_and_the_target_is_for_the_one_that_training_takes(tmp_path, monkeypatch):
    """A cache of MNLI takes 94 GB; an H100 has 80, of which a quarter may be taken unasked."""
    assert prune._cache_bytes(Sizes(), 39) == pytest.approx(94e9, rel=0.01)
    monkeypatch.setattr(
        prune, "_time", lambda bench, live, *_: {name: 1 + cached for name, cached in prune.TEACHERS.items()}
    )
    monkeypatch.setattr(prune, "_cache_bytes", lambda *_: 94e9)
    monkeypatch.setattr(prune, "free_bytes", lambda device: 80e9)
    bench = bench_of(tmp_path)
    prune.run(bench)
    computed, cached = bench.record.rows
    assert "teacher computed" in computed["case"] and "teacher cached" in cached["case"]
    assert cached["value"] == 2 * computed["value"]
    assert "target" in computed and "target" not in cached
    assert computed["taken_by_auto"] and computed["cache_gb"] == 94.0 and AUTO_SHARE * 80 < 94


def test_a_live_fraction_that_fails_leaves_the_others(tmp_path, monkeypatch):
    def fails_dense(bench, live, *_):
        if live == 1.0:
            raise RuntimeError("out of memory")
        return dict.fromkeys(prune.TEACHERS, 1.0)

    monkeypatch.setattr(prune, "_time", fails_dense)
    bench = bench_of(tmp_path)
    prune.run(bench)
    assert [item["case"] for item in bench.record.failed] == ["step, 100% live, lengths like MNLI's"]
    assert len(bench.record.skipped) == len(prune.TEACHERS)  # of two fractions one is left


def test_sentences_are_as_long_as_those_of_mnli(tmp_path, monkeypatch):
    monkeypatch.delenv("COFI_DATA_DIR", raising=False)
    lengths, of = prune.lengths_of(Bench(Sizes(), Record(tmp_path, {"device": "cpu", "cpu": "none"}), smoke=False))
    assert sum(lengths) / len(lengths) == pytest.approx(39, abs=1) and len(set(lengths)) > 30
    assert len(lengths) == 32 * 32 and of == "lengths like MNLI's"


def test_time_of_a_prune_is_the_sum_over_its_schedule():
    """2 epochs of ramp through half the range of a straight line, 18 at its end."""
    seconds = prune.prune_seconds({1.0: 2.0, 0.4: 0.8, 0.05: 0.1}, rows=3200)
    assert seconds == pytest.approx(1e-3 * 100 * (2 * 2.0 * (1 + 0.05) / 2 + 18 * 0.1), rel=1e-9)
