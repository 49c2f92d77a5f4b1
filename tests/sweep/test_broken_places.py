"""What a sweep is told to read or write and cannot: refused by name, where it costs something before anything runs."""

from __future__ import annotations

import shutil

import pytest

from cofi.cli import run as run_command
from cofi.sweep import running
from cofi.sweep.__main__ import main
from tests.tiny_sweep import points

NO_SCORE = '{"format": 1, "points": [{"name": "n", "status": "done"}]}'
NO_SEED = (
    '{"format": 1, "points": [{"name": "n", "status": "waiting", "task": "a", "variant": "b", "target_sparsity": 0}]}'
)


@pytest.fixture
def nothing_runs(whole, monkeypatch):
    """Once `whole` is there."""
    monkeypatch.setattr(running, "train", lambda *args, **more: pytest.fail("a run was begun"))


@pytest.mark.parametrize("flag", ["--output", "--teachers", "--results"])
@pytest.mark.parametrize("more", ["", "x"], ids=["file", "below-a-file"])
def test_a_file_in_the_place_of_a_directory_is_refused_before_anything_runs(
    one, nothing_runs, tmp_path, capsys, flag, more
):
    place = tmp_path / "file" / more
    (tmp_path / "file").write_text("")
    assert run_command(lambda: main([*one, flag, str(place)])) == 2
    assert f"error: {flag} {place} cannot be written: " in capsys.readouterr().err


def test_a_place_that_must_not_be_written_is_refused_before_anything_runs(
    one, whole, nothing_runs, tmp_path, monkeypatch, capsys
):
    results = tmp_path / "results"
    monkeypatch.setattr("cofi.sweep.store.os.access", lambda path, mode: path != results)
    for words in (one, ["--output", str(whole), "--measure"]):
        assert run_command(lambda words=words: main([*words, "--results", str(results)])) == 2
        assert f"error: --results {results} cannot be written: Permission denied" in capsys.readouterr().err
    assert not any("speedup" in point for point in points(whole).values())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("sweep.json", '{"format": 1, "points": [1]}', "point 1 of {} must be an object, got int"),
        ("sweep.json", '{"format": 1, "points": [{}]}', "point 1 of {} must have name, status, got no name"),
        ("sweep.json", NO_SCORE, "point 1 of {} must have score, metric, teacher_score, total_seconds, got no score"),
        ("sweep.json", NO_SEED, "point 1 of {} must have task, variant, seed and a sparsity or speedup, got no seed"),
        ("point.json", '{"task": "a", "variant": "b", "seed": 1}', "{} must have task, variant, seed and a sparsity"),
        ("run/result.json", "{}", "{} must have compact_score, metric, teacher_score, total_seconds, got no compact"),
        ("speed.json", "{}", "{} must have speedup, latency_ms, measured, machine, got no speedup"),
    ],
    ids=["number", "nothing", "no-score", "no-seed", "point", "result", "speed"],
)
def test_a_file_that_lacks_something_is_named(whole, tmp_path, capsys, file, content, message):
    place = tmp_path / "results" / file
    if file != "sweep.json":
        shutil.copytree(whole, tmp_path / "results")
        place = tmp_path / "results" / "points" / "animals-default-s30-seed1" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    words = ["--output", str(tmp_path / "results")]
    if file == "sweep.json":
        words = ["--output", str(whole), "--results", str(tmp_path / "results")]
    assert run_command(lambda: main(words)) == 2
    assert f"error: {message.format(place)}" in capsys.readouterr().err
