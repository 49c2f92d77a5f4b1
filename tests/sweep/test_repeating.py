"""Commands that repeat the rows of a table: those of the committed results, parsed, give the very settings again."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from cofi.sweep.goal import Goal
from cofi.sweep.options import parse
from cofi.sweep.plan import Point
from cofi.sweep.repeating import repeats
from cofi.sweep.results import read_summary
from cofi.sweep.store import settings_of_variant
from cofi.sweep.summary import report
from cofi.train.config import TrainConfig
from cofi.train.rates import settle_rates

RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").rglob("sweep.json"))
HERE = {"device": "cpu", "cpu": "A", "threads": 1, "commit": "abc", "date": "2026-01-01"}


def record(point: Point, settings: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**point.fields("target_"), "status": "done", "settings": settings, "name": point.name, **fields}


def settings_by_command(records: list[dict[str, Any]]) -> dict[Point, dict[str, Any]]:
    """What the printed commands would run, and fail where two of them would run the same point."""
    found: dict[Point, dict[str, Any]] = {}
    for repeat in repeats(records):
        grid = parse(shlex.split(str(repeat))[3:]).grid
        assert grid is not None
        for point in grid.points():
            assert point not in found
            found[point] = settings_of_variant(settle_rates(grid.run(point, Path("run")), 384))
    return found


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_committed_results_are_repeated_with_their_settings(path):
    records = [each for each in read_summary(path.parent)["points"] if each["status"] == "done" and "settings" in each]
    made = {Point.read(each, "target_"): each["settings"] for each in records}
    assert settings_by_command(records) == made


def test_there_are_results_to_repeat():
    assert len(RESULTS) >= 5


def test_points_that_make_no_grid_are_each_run_once():
    goals = [Goal("sparsity", 0.8), Goal("sparsity", 0.95), Goal("speedup", 4.0)]
    grid = [Point(*axes) for axes in itertools.product(("cola", "rte"), ("default", "mine"), goals, (1, 2, 3))]
    config = parse(shlex.split("--output DIR --tasks cola --sparsities 0.8 --seeds 1")).grid.run(grid[0], Path("run"))
    settings = settings_of_variant(settle_rates(config, 384))
    for left_out in ([], [0], [0, 5, 11], list(range(0, len(grid), 3)), list(range(1, len(grid)))):
        points = [point for i, point in enumerate(grid) if i not in left_out]
        found = settings_by_command([record(p, settings, dense_structure={"hidden": 384}) for p in points])
        assert found == dict.fromkeys(points, settings)


def teachers_by_command(records: list[dict[str, Any]]) -> dict[int, int]:
    """Seeds of the teachers that the printed commands make, by seed of the point."""
    grids = [parse(shlex.split(str(repeat))[3:]).grid for repeat in repeats(records)]
    return {point.seed: grid.teacher(point.task, point.seed).seed for grid in grids for point in grid.points()}


@pytest.mark.parametrize("variant", ["default", "mine"])
@pytest.mark.parametrize(
    ("teachers", "flags"),
    [
        ({1: 57, 2: None}, [""]),
        ({1: 1, 2: 2}, ["--teacher-seed each"]),
        ({1: 4, 2: 4}, ["--teacher-seed 4"]),
        ({1: 1, 57: 57}, ["--teacher-seed each", ""]),
    ],
    ids=str,
)
def test_the_teachers_are_those_of_the_points(variant, teachers, flags):
    points = {seed: Point("cola", variant, Goal("sparsity", 0.8), seed) for seed in teachers}
    noted = {seed: {} if teacher is None else {"teacher_seed": teacher} for seed, teacher in teachers.items()}
    records = [record(points[seed], {}, dense_structure={"hidden": 384}, **noted[seed]) for seed in teachers]
    assert teachers_by_command(records) == {seed: teacher or 57 for seed, teacher in teachers.items()}
    commands = [str(repeat) for repeat in repeats(records)]
    assert len(commands) == len(flags)
    assert all(
        flag in text and ("--teacher-seed" in text) == bool(flag) for flag, text in zip(flags, commands, strict=True)
    )


def test_the_masked_model_is_named_without_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mlm").mkdir(parents=True)
    settings = {
        given: settings_of_variant(TrainConfig(augment=3, augment_mlm=given))["augment_mlm"]
        for given in ("models/mlm", str(tmp_path / "models" / "mlm"), "some/id")
    }
    assert list(settings.values()) == ["mlm", "mlm", "some/id"]
    point = Point("cola", "mine", Goal("sparsity", 0.8), 1)
    recorded = {"recipe": "default", "augment": 3, "augment_mlm": "some/id"}
    found = settings_by_command([record(point, recorded)])
    assert {name: found[point][name] for name in ("augment", "augment_mlm")} == {"augment": 3, "augment_mlm": "some/id"}


def test_numbers_keep_all_their_digits():
    point = Point("cola", "mine", Goal("sparsity", 0.123456789), 1)
    settings = {"recipe": "default", "reg_learning_rate": 0.0123456789}
    assert point in settings_by_command([record(point, settings)])
    assert settings_by_command([record(point, settings)])[point]["reg_learning_rate"] == 0.0123456789


def test_a_size_that_is_not_known_has_its_rates_named():
    point = Point("cola", "default", Goal("sparsity", 0.9), 1)
    config = parse(shlex.split("--output DIR --tasks cola --sparsities 0.9")).grid.run(point, Path("run"))
    settings = settings_of_variant(settle_rates(config, 768))
    assert "--learning-rate 0.0001" in str(repeats([record(point, settings)])[0])
    assert "--learning-rate" not in str(repeats([record(point, settings, dense_structure={"hidden": 768})])[0])


def test_what_cannot_be_repeated_is_left_out():
    point = Point("cola", "default", Goal("sparsity", 0.9), 1)
    old = {name: value for name, value in record(point, {}).items() if name != "settings"}
    assert repeats([old, {**record(point, {}), "status": "failed"}]) == []


def test_the_table_shows_them():
    summary = json.loads(RESULTS[0].read_text())
    text = report(summary["points"], ["typed then"], HERE)
    assert all(str(repeat) in text for repeat in repeats(summary["points"]))
    old = [{name: value for name, value in each.items() if name != "settings"} for each in summary["points"]]
    assert "typed then" not in text and "typed then" in report(old, ["typed then"], HERE)
