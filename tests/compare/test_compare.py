"""Methods against a reference at equal size and speed, on made-up sweeps whose answers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cofi.cli import run as run_command
from cofi.compare.__main__ import main, read_points
from cofi.compare.frontier import Frontier, Verdict
from cofi.compare.table import compare, report
from cofi.sweep.figures import ablations, draw
from cofi.sweep.summary import Mean, group, section

DENSE = 10_000_000


def record(task: str, variant: str, seed: int, params: int, score: float, speed: float | None = None) -> dict:
    found = {
        "name": f"{task}-{variant}-{params}-seed{seed}",
        "task": task,
        "variant": variant,
        "seed": seed,
        "target_sparsity": 1 - params / DENSE,
        "sparsity": 1 - params / DENSE,
        "status": "done",
        "metric": "accuracy",
        "teacher_score": 90.0,
        "score": score,
        "masked_score": score - 5,
        "params_before": DENSE,
        "params_after": params,
        "total_seconds": 10.0,
    }
    if speed is None:
        return found
    speeds = {"batch 1": speed, "batch 32": 2 * speed}
    return found | {"speedup": speeds, "measured": {"gflops": dict.fromkeys(speeds, 150.0)}}


REFERENCE = [
    *(record("rte", "default", seed, 1_000_000, 80 + spread, 8.0) for seed, spread in ((1, -1), (2, 0), (3, 1))),
    *(record("rte", "default", seed, 4_000_000, 86 + spread, 2.0) for seed, spread in ((1, -1), (2, 0), (3, 1))),
]


def write(folder: Path, records: list[dict]) -> str:
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"format": 1, "commands": [], "machine": {}, "points": records}))
    return str(folder)


def test_scores_between_two_points_lie_on_a_line_in_the_logarithm():
    frontier = Frontier(((1.0, Mean(80.0, 1.0)), (4.0, Mean(86.0, 0.5)), (10.0, Mean(90.0, None))))
    assert frontier.at(2.0) == Mean(pytest.approx(83.0), pytest.approx(0.75))
    assert frontier.at(4.0).value == pytest.approx(86.0)
    assert frontier.at(math.sqrt(40.0)) == Mean(pytest.approx(88.0), pytest.approx(0.25))
    assert frontier.at(0.97) is None and frontier.at(10.3) is None


def test_a_point_that_is_almost_hit_scatters_like_itself():
    frontier = Frontier(
        ((1.0, Mean(80.0, 0.2)), (4.0, Mean(86.0, 5.0)), (9.0, Mean(88.0, None)), (10.0, Mean(90.0, None)))
    )
    assert frontier.at(1.001).deviation == pytest.approx(0.2, abs=0.01)
    assert frontier.at(8.99).deviation == pytest.approx(0.0, abs=0.01)
    assert frontier.at(9.5).deviation is None


SPEEDS = {"smaller_is_better": False}
SIZES = {"smaller_is_better": True}


def frontier_of(points: list[tuple[float, float]], dense: tuple[float, float], **direction: bool) -> list[tuple]:
    """(x, score) of the points that are left."""
    groups = [group([record("rte", "default", 1, 1_000_000, score, x)])[0] for x, score in points]
    dense_point = (dense[0], Mean(dense[1], None))
    left = Frontier.of(groups, lambda g: g.speedup("batch 1"), dense_point, **direction).points
    return [(x, score.value) for x, score in left]


@pytest.mark.parametrize(
    ("points", "direction", "left"),
    [
        ([(8.0, 70.0), (6.0, 75.0), (6.5, 80.0)], SPEEDS, [(1.0, 90.0), (6.5, 80.0), (8.0, 70.0)]),
        ([(0.2, 70.0), (0.4, 80.0), (0.5, 75.0)], SIZES, [(0.2, 70.0), (0.4, 80.0), (1.0, 90.0)]),
        ([(6.0, 75.0), (6.0, 80.0)], SPEEDS, [(1.0, 90.0), (6.0, 80.0)]),
        ([(0.5, 80.0), (0.5, 75.0)], SIZES, [(0.5, 80.0), (1.0, 90.0)]),
        ([(5.0, 80.0), (6.0, 80.0)], SPEEDS, [(1.0, 90.0), (6.0, 80.0)]),
        ([(6.0, 80.0), (6.0, 80.0)], SPEEDS, [(1.0, 90.0), (6.0, 80.0)]),
        ([(4.0, 91.0), (8.0, 80.0)], SPEEDS, [(1.0, 91.0), (4.0, 91.0), (8.0, 80.0)]),
        ([(0.2, 80.0), (0.4, 91.0)], SIZES, [(0.2, 80.0), (0.4, 91.0), (1.0, 91.0)]),
        ([(0.9, 91.0), (4.0, 80.0)], SPEEDS, [(0.9, 91.0), (1.0, 90.0), (4.0, 80.0)]),
        ([(0.9, 85.0)], SPEEDS, [(0.9, 90.0), (1.0, 90.0)]),
    ],
    ids=[
        "slower-and-worse",
        "larger-and-worse",
        "as-fast-and-worse",
        "as-large-and-worse",
        "slower-and-as-good",
        "twice-the-same",
        "the-teacher-by-speed",
        "the-teacher-by-size",
        "slower-than-the-teacher-and-better",
        "slower-than-the-teacher-and-worse",
    ],
)
def test_a_point_that_another_beats_on_both_axes_is_no_part_of_the_frontier(points, direction, left):
    for order in (points, points[::-1]):
        assert frontier_of(order, (1.0, 90.0), **direction) == left


def test_a_beaten_point_lowers_nothing_between_its_neighbours():
    beaten = record("rte", "default", 1, 500_000, 60.0, 7.9)
    other = record("rte", "other", 1, 2_000_000, 82.0, 4.0)
    with_it, without = (compare([*REFERENCE, *more, other], "default")["rte"][0].verdicts for more in ([beaten], []))
    assert with_it["speed, batch 1"] == without["speed, batch 1"]
    assert with_it["speed, batch 1"].reference.value == pytest.approx(83.0)
    assert with_it["size"] == without["size"]


def test_the_outermost_points_hold_a_little_beyond_them():
    """Two methods that were asked for one sparsity have not the same number of weights."""
    frontier = Frontier(((1.0, Mean(80.0, 1.0)), (10.0, Mean(90.0, None))))
    assert frontier.at(0.985) == Mean(80.0, 1.0)
    assert frontier.at(10.1) == Mean(90.0, 0.0)


@pytest.mark.parametrize(
    ("other", "word"),
    [(Mean(81.0, None), "wins"), (Mean(82.5, 1.0), "even"), (Mean(85.0, 1.0), "loses")],
    ids=["wins", "even", "loses"],
)
def test_a_verdict_needs_more_than_the_scatter(other, word):
    verdict = Verdict.of(Mean(83.0, 1.0), other)
    assert (verdict.wins, verdict.loses) == (word == "wins", word == "loses")
    assert verdict.scatter == pytest.approx(math.hypot(1.0, other.deviation or 0.0))


def test_a_method_that_is_small_but_slow_wins_at_equal_speed_only_by_its_own_score():
    # half the size of what the reference has at 86, and no faster than the dense model
    slow = record("rte", "small", 1, 2_000_000, 82.0, 1.0)
    (row,) = compare([*REFERENCE, slow], "default")["rte"]
    assert row.verdicts["size"].reference.value == pytest.approx(83.0)
    assert row.verdicts["size"].gain == pytest.approx(1.0) and not row.verdicts["size"].wins  # its scatter is 1.0
    assert row.verdicts["speed, batch 1"].gain == pytest.approx(90.0 - 82.0)  # the teacher is as fast
    assert row.verdicts["speed, batch 32"].wins


def test_what_was_not_measured_is_not_compared():
    tiny, fast = record("rte", "tiny", 1, 500_000, 70.0), record("rte", "fast", 1, 2_000_000, 70.0, 100.0)
    rows = {row.group.variant: row for row in compare([*REFERENCE, tiny, fast], "default")["rte"]}
    assert rows["tiny"].verdicts == {"size": None, "speed, batch 1": None, "speed, batch 32": None}
    assert rows["fast"].verdicts["size"].wins and rows["fast"].verdicts["speed, batch 1"] is None


def test_runs_that_were_asked_for_speed_are_compared_by_speed_alone():
    """They lie where the reference is at neither 80 nor 86: slower for their size, or better for their speed."""
    fast = record("rte", "default", 1, 2_000_000, 84.0, 6.0)
    del fast["target_sparsity"]
    points = [*REFERENCE, fast | {"target_speedup": 12.0}, record("rte", "other", 1, 2_000_000, 70.0, 6.0)]
    (row,) = compare(points, "default")["rte"]
    assert row.verdicts["size"].reference.value == pytest.approx(83.0)
    assert row.verdicts["speed, batch 32"].reference.value == pytest.approx(84.0)
    assert [str(g.goal) for g in group(points) if g.variant == "default"] == ["60.0 %", "90.0 %", "12.0×"]


def test_a_run_of_another_method_that_was_asked_for_speed_is_compared_by_speed_alone():
    asked = record("rte", "gradual", 1, 2_000_000, 70.0, 6.0)
    del asked["target_sparsity"]
    (row,) = compare([*REFERENCE, asked | {"target_speedup": 12.0}], "default")["rte"]
    assert row.verdicts["size"] is None
    assert row.verdicts["speed, batch 1"].wins and row.verdicts["speed, batch 32"].wins


def test_speeds_of_a_busy_machine_are_not_compared():
    other = record("rte", "fisher", 1, 1_000_000, 79.0, 8.0)
    assert compare([*REFERENCE, other], "default")["rte"][0].verdicts["speed, batch 1"] is not None
    other["measured"]["disturbed"] = {"batch 1": True}
    verdicts = compare([*REFERENCE, other], "default")["rte"][0].verdicts
    assert verdicts["speed, batch 1"] is None and verdicts["speed, batch 32"] is not None
    assert "| fisher | 90.0 % | 79.00 | 1.00 M | 80.00 | +1.00 = | - | - | - | 16.0× |" in report(
        [*REFERENCE, other], "default"
    )


def test_speeds_of_two_machines_are_not_compared():
    def on(cpu: str, point: dict) -> dict:
        return point | {"measured_on": {"device": "cpu", "cpu": cpu, "threads": 1, "date": point["name"]}}

    other = record("rte", "other", 1, 2_000_000, 70.0, 4.0)
    reference = [on("A", point) for point in REFERENCE]
    for points, compared in (
        ([*reference, on("A", other)], True),
        ([*reference, on("B", other)], False),
        ([on("B", reference[0]), *reference[1:], on("A", other)], False),  # the fast one of three seeds on two machines
    ):
        (row,) = compare(points, "default")["rte"]
        assert row.verdicts["size"].wins
        assert (row.verdicts["speed, batch 1"] is not None) == compared


def test_the_report_names_where_the_reference_does_not_win():
    better = [record("rte", "better", 1, 2_000_000, 88.0, 4.0), record("rte", "worse", 1, 2_000_000, 60.0, 4.0)]
    text = report([*REFERENCE, *better], "default")
    lost = text.split("does not win")[1]
    assert "rte, equal size (2.00 M): loses against better, 83.00 to 88.00" in lost
    assert "equal speed, batch 1 (4.00×): loses against better" in lost
    assert "worse" not in lost
    assert "| better | size | 0 | 0 | 1 | 0 | −5.00 |" in text
    assert "| worse | size | 1 | 0 | 0 | 0 | +23.00 |" in text
    won = report([*REFERENCE, better[1]], "default")
    assert "Nowhere, as far as the two can be compared." in won


def test_ablations_are_told_apart_from_what_one_could_do_instead():
    points = [record("rte", "no-layer", 1, 1_000_000, 70.0, 8.0), record("rte", "fisher", 1, 2_000_000, 60.0, 4.0)]
    text = report([*REFERENCE, *points], "default")
    methods, ablations = text.split("## Ablations")
    assert "no-layer" not in methods and "fisher" in methods
    assert "| without | asked | rte |" in ablations and "| no-layer | 90.0 % | 70.00, gain +10.00 |" in ablations
    assert "## Ablations" not in report([*REFERENCE, points[1]], "default")


def test_a_task_the_reference_has_no_result_in_is_left_out():
    assert set(compare([*REFERENCE, record("cola", "x", 1, 1_000_000, 10.0)], "default")) == {"rte"}


def test_mean_and_deviation_are_of_the_seeds():
    first = group(REFERENCE)[0]
    assert (first.variant, len(first.records)) == ("default", 3)
    assert str(group(REFERENCE)[1].mean("score")) == "80.00 ± 1.00"
    assert Mean.of([None, 3.0]) == Mean(3.0, None) and Mean.of([None]) is None


def test_the_command_reads_sweeps_and_draws(tmp_path, capsys):
    one = write(tmp_path / "one", REFERENCE)
    two = write(tmp_path / "two", [record("rte", "fisher", 1, 2_000_000, 79.0, 4.0), REFERENCE[0]])
    assert main([one, two, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "compare.md").read_text() in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"compare.md", "size.png", "speed-batch-1.png", "speed-batch-32.png"}


def test_the_teacher_of_a_plot_is_that_of_the_table(monkeypatch):
    drawn = []
    monkeypatch.setattr("cofi.sweep.figures.frontier_figure", lambda curves, teachers, *rest: drawn.append(teachers))
    monkeypatch.setattr("cofi.sweep.figures.to_png", lambda figure: b"")
    points = [record("rte", "default", seed, 1_000_000, 80.0) for seed in (1, 2)]
    points[1]["teacher_score"] = 80.0
    draw(points)
    assert drawn == [{"rte": 85.0}] and "Teacher: accuracy 85.00." in section("rte", group(points), points)


def test_ablations_and_trials_at_one_goal_have_a_figure_of_their_own():
    trial = [record("rte", "slow", 1, 1_000_000, 81.0, 8.0)]
    often = [record("rte", "often", 1, params, 70.0, 8.0) for params in (1_000_000, 4_000_000)]
    ablation = [record("rte", "no-layer", 1, params, 70.0, 8.0) for params in (1_000_000, 4_000_000)]
    baseline = [record("rte", "drop-top-layers", 1, 1_000_000, 60.0, 8.0)]
    everything = group([*REFERENCE, *trial, *often, *ablation, *baseline])
    assert ablations(everything) == {"slow", "no-layer"}
    assert ablations(group([*trial, *REFERENCE])) == set()  # it comes first: the others are held against it
    assert "ablations.png" in draw([*REFERENCE, *trial]) and "ablations.png" not in draw([*REFERENCE, *often])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reference", "cofi"], "--reference must be one of default, got 'cofi'"),
        (["--tasks", "mnli"], "--tasks must be of rte, got 'mnli'"),
        (["--variants", "lottery"], "--variants must be of default, got 'lottery'"),
        (["missing"], "missing holds no sweep (no sweep.json)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_named(tmp_path, capsys, words, message):
    folder = write(tmp_path / "one", REFERENCE)
    assert run_command(lambda: main([folder, *words])) == 2
    assert message in capsys.readouterr().err


def test_of_one_point_in_two_sweeps_the_one_counts_that_was_timed(tmp_path):
    alone = record("rte", "default", 1, 1_000_000, 80.0, 8.0)
    untimed = record("rte", "default", 1, 1_000_000, 80.0)
    busy = {**alone, "measured": alone["measured"] | {"disturbed": {"batch 1": True}}}
    folders = {name: Path(write(tmp_path / name, [one])) for name, one in (("a", alone), ("u", untimed), ("b", busy))}
    for order, counts in (("ua", alone), ("au", alone), ("bau", alone), ("uab", alone), ("ub", busy), ("bu", busy)):
        assert read_points([folders[name] for name in order]) == [counts]


def test_one_point_with_two_results_is_refused(tmp_path, capsys):
    other = {**REFERENCE[0], "score": 1.0}
    folders = [write(tmp_path / "one", REFERENCE), write(tmp_path / "two", [other])]
    assert run_command(lambda: main(folders)) == 2
    assert "must be in one sweep only, or the same in all" in capsys.readouterr().err
