"""The command line of a sweep: what it plans, and what it refuses before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cofi.errors import UserError
from cofi.sweep.goal import SPARSITY, SPEEDUP, Goal
from cofi.sweep.options import build_parser, parse
from cofi.sweep.plan import Point
from cofi.sweep.variants import VARIANTS

BASE = ["--output", "s", "--tasks", "mrpc", "rte", "--sparsities", "0.6", "0.95", "--seeds", "1", "2"]


def test_points_of_a_seed_come_together_and_tasks_alternate():
    grid = parse(BASE).grid
    assert [p.name for p in grid.points()][:3] == [
        "mrpc-default-s60-seed1",
        "rte-default-s60-seed1",
        "mrpc-default-s95-seed1",
    ]
    assert [p.seed for p in grid.points()] == [1] * 4 + [2] * 4


def test_flags_of_train_hold_for_all_runs_and_a_variant_goes_before_them():
    words = ["--prune-epochs", "4", "--batch_size", "8", "--variant", "long='--prune-epochs 9'".replace("'", "")]
    grid = parse([*BASE, *words, "--variants", "default", "long"]).grid
    configs = {v: grid.run(Point("rte", v, Goal(SPARSITY, 0.6), 1), Path("d")) for v in ("default", "long")}
    assert {v: c.prune_epochs for v, c in configs.items()} == {"default": 4.0, "long": 9.0}
    assert {c.batch_size for c in configs.values()} == {8}
    assert all(c.student_init == "teacher" for c in configs.values())
    assert all(c.teacher == "s/teachers/rte-seed57/teacher" for c in configs.values())


def test_flags_of_a_task_reach_its_runs_and_its_teacher_alone():
    grid = parse([*BASE, "--task-flags", "rte=--max-train-samples 100"]).grid
    assert grid.run(Point("rte", "default", Goal(SPARSITY, 0.6), 1), Path("d")).max_train_samples == 100
    assert grid.teacher("rte", 1).max_train_samples == 100
    assert grid.run(Point("mrpc", "default", Goal(SPARSITY, 0.6), 1), Path("d")).max_train_samples is None


def test_a_teacher_does_not_depend_on_how_its_students_are_pruned():
    one = parse([*BASE, "--prune-epochs", "4", "--finetune-epochs", "1"]).grid
    other = parse([*BASE, "--variants", "official", "--mask-kinds", "head"]).grid
    assert one.teacher("rte", 1) == other.teacher("rte", 1)
    assert parse([*BASE, "--teacher-epochs", "1"]).grid.teacher("rte", 1) != one.teacher("rte", 1)


def test_speedups_are_goals_beside_sparsities_or_instead_of_them():
    speed = ["--target-speedups", "4", "12.5", "--device-profile", "cpu.json"]
    grid = parse([*BASE, *speed]).grid
    points = {p.name: p for p in grid.points() if (p.task, p.seed) == ("rte", 1)}
    names = [f"rte-default-{goal}-seed1" for goal in ("s60", "s95", "x4", "x12.5")]
    assert [*points] == names
    by_size, by_speed = (grid.run(points[names[i]], Path("d")) for i in (0, 3))
    assert (by_size.sparsity, by_size.target_speedup, by_size.device_profile) == (0.6, None, None)
    assert (by_speed.target_speedup, by_speed.device_profile) == (12.5, "cpu.json")
    assert by_size.measure_seconds == 0 and by_speed.measure_seconds > 0  # a speedup is corrected by measuring
    alone = parse(["--output", "s", "--tasks", "rte", *speed]).grid
    assert [p.name for p in alone.points()] == names[2:]
    assert [goal.value for goal in parse(["--output", "s", "--tasks", "rte"]).grid.goals] == [0.6, 0.8, 0.9, 0.95]


@pytest.mark.parametrize("goal", [Goal(SPARSITY, 0.95), Goal(SPEEDUP, 12.5)])
def test_a_point_is_read_as_it_was_written(goal):
    point = Point("rte", "default", goal, 3)
    assert Point.read(point.fields()) == point
    assert Point.read(point.fields("target_"), "target_") == point
    assert Goal.read(point.fields("target_"), "target_") == goal


@pytest.mark.parametrize(
    ("given", "seeds"), [([], {57}), (["--teacher-seed", "3"], {3}), (["--teacher-seed", "each"], {1, 2})]
)
def test_seed_of_the_teachers(given, seeds):
    grid = parse([*BASE, *given]).grid
    assert {grid.teacher("rte", seed).seed for seed in (1, 2)} == seeds


@pytest.mark.parametrize("name", VARIANTS)
def test_every_built_in_variant_is_a_valid_run(name):
    grid = parse([*BASE, "--variants", name]).grid
    config = grid.run(Point("mrpc", name, Goal(SPARSITY, 0.95), 1), Path("d"))
    assert all(getattr(config, field) == value for field, value in VARIANTS[name].settings.items())


def test_official_keeps_its_own_epochs_and_start():
    grid = parse([*BASE, "--variants", "official"]).grid
    config = grid.run(Point("rte", "official", Goal(SPARSITY, 0.6), 1), Path("d"))
    assert (config.prune_epochs, config.resolved_distil_epochs, config.student_init) == (96.0, 4.0, "model")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "3"], "--seed is set for each run by the sweep: use --seeds"),
        (["--sparsity", "0.3"], "use --sparsities"),
        (["--sparsityes", "0.3"], "neither cofi.sweep .*--sparsities.* nor cofi.train takes this: .*--sparsityes"),
        (["--variants", "no-heads"], "--variants must be of default, gradual, official.* got 'no-heads'"),
        (["--variant", "default=--seed 3"], "--variant default: --seed is set"),
        (["--variant", "no-layer=--prune-epochs 3"], "must not take the name of a built-in variant, got 'no-layer'"),
        (["--variant", "slow"], "--variant must be NAME='FLAGS', got 'slow'"),
        (["--variant", "a/b=--prune-epochs 3"], "--variant must be names of letters.* got 'a/b'"),
        (["--variant", "slow=--prune-epoch 3"], "--variant slow: .*--prune-epoch"),
        (["--task-flags", "cola=--batch-size 3"], "--task-flags must be for one of --tasks mrpc rte, got 'cola'"),
        (["--prune-epochs", "0.5"], "mrpc-default-s60-seed1: --sparsity-warmup-epochs must not exceed --prune-epochs"),
        (["--target-speedup", "4"], "use --target-speedups"),
        (["--target-speedups", "4"], "--target-speedups and --device-profile must be given together"),
        (["--device-profile", "f"], "--target-speedups and --device-profile must be given together"),
        (["--variant", "v=--device-profile f"], "--variant v: --device-profile is set .* give it to the sweep itself"),
        (
            ["--target-speedups", "4", "--device-profile", "f", "--variants", "fisher"],
            "mrpc-fisher-x4-seed1: --target-speedup is for --method cofi, got --method fisher",
        ),
        (["--tasks", "rte"], "--tasks must name each only once, got rte twice"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_named(words, message):
    with pytest.raises(UserError, match=message):
        parse([*BASE, *words])


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [
        ("--sparsities", "1.5", r"mrpc-default-s150-seed1: --sparsity must be in \[0, 1\), got 1.5"),
        ("--sparsities", "high", "--sparsities must be numbers, got 'high'"),
        ("--seeds", "-1", r"--seed must be in \[0, 2147483648\), got -1"),
        ("--seeds", "1.5", "--seeds must be whole numbers, got '1.5'"),
        ("--tasks", "../x", "--tasks must be names"),
        ("--teacher-seed", "all", "--teacher-seed must be whole numbers, got 'all'"),
    ],
)
def test_a_bad_axis_is_named(axis, value, message):
    words = {"--tasks": "mrpc", "--sparsities": "0.6", "--seeds": "1", axis: value}
    with pytest.raises(UserError, match=message):
        parse(["--output", "s", *(word for pair in words.items() for word in pair)])


def test_without_tasks_a_sweep_must_be_there(tmp_path):
    with pytest.raises(UserError, match=f"--tasks is needed: --output {tmp_path} holds no sweep yet"):
        parse(["--output", str(tmp_path)])


def test_help_names_every_variant():
    text = build_parser().format_help()
    assert all(name in text.replace("\n", "") for name in ("default", "official", "fixed-matching", "no-finetune"))
