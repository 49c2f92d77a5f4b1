"""Published results put together: which points stay, where they come from, and what is refused."""

from __future__ import annotations

import pytest

from cofi.errors import UserError
from cofi.sweep.merging import check_one_setting, merged
from cofi.sweep.summary import where

HERE = {"device": "cpu", "cpu": "A", "threads": 1, "commit": "abc", "date": "2026-01-01"}
THERE = {**HERE, "cpu": "B", "threads": 2}


def point(name: str, status: str = "done", **fields: object) -> dict:
    task, variant, _, seed = name.split("-")
    found = {"name": name, "task": task, "variant": variant, "seed": int(seed.removeprefix("seed"))}
    return found | {"status": status, "score": 1.0, "versions": {}} | fields


def summary(machine: dict, command: str, *points: dict) -> dict:
    return {"format": 1, "machine": machine, "commands": [command], "points": list(points)}


def test_points_and_commands_of_both_stay_and_say_their_machine():
    first = summary(HERE, "one", point("cola-default-s80-seed1"), point("cola-default-s80-seed2", "waiting"))
    second = summary(THERE, "two", point("rte-default-s80-seed1", machine=HERE), point("rte-default-s95-seed1"))
    both = merged(first, second)
    assert both["commands"] == ["one", "two"] and both["format"] == 1
    assert {record["name"]: record.get("machine") for record in both["points"]} == {
        "cola-default-s80-seed1": HERE,
        "cola-default-s80-seed2": None,
        "rte-default-s80-seed1": HERE,
        "rte-default-s95-seed1": THERE,
    }
    assert where(both["points"], both["machine"]).splitlines() == [
        "Trained on A, 1 thread, commit abc, 2026-01-01.",
        "",
        "Trained on B, 2 threads, commit abc, 2026-01-01.",
    ]


def test_a_finished_point_gives_way_to_a_newer_one_only_if_that_is_finished():
    name = "cola-default-s80-seed1"
    old = summary(HERE, "one", point(name, score=1.0))
    newer = summary(THERE, "two", point(name, score=2.0))
    assert [record["score"] for record in merged(old, newer)["points"]] == [2.0]
    for status in ("waiting", "started", "failed"):
        (kept,) = merged(old, summary(THERE, "two", point(name, status)))["points"]
        assert kept["score"] == 1.0 and kept["machine"] == HERE
    (kept,) = merged(summary(HERE, "one", point(name, "failed")), newer)["points"]
    assert kept["score"] == 2.0


def test_one_variant_has_one_setting():
    first = summary(HERE, "one", point("cola-default-s80-seed1", settings={"prune_epochs": 6.0, "batch_size": 16}))
    same = summary(THERE, "two", point("cola-default-s95-seed1", settings={"batch_size": 16, "prune_epochs": 6.0}))
    unknown = summary(THERE, "two", point("cola-default-s95-seed1"))
    other_task = summary(THERE, "two", point("rte-default-s80-seed1", settings={}))
    for second in (same, unknown, other_task):
        assert len(merged(first, second)["points"]) == 2
    second = summary(THERE, "two", point("cola-default-s95-seed1", settings={"prune_epochs": 4.0}))
    with pytest.raises(UserError, match="-s80-seed1 with prune_epochs 6.0, batch_size 16, but .*has prune_epochs 4"):
        merged(first, second)
    with pytest.raises(UserError, match="-s95-seed1 has the defaults: give one of the two variants another name"):
        merged(first, summary(THERE, "two", point("cola-default-s95-seed1", settings={})))


def test_rates_that_are_left_to_the_student_contradict_none():
    done = summary(HERE, "one", point("cola-default-s80-seed1", settings={"learning_rate": 3e-4, "batch_size": 16}))
    open_ = {"learning_rate": None, "batch_size": 16}
    waiting = point("cola-default-s80-seed2", "waiting", settings=open_)
    assert len(merged(done, summary(THERE, "two", waiting))["points"]) == 2
    with pytest.raises(UserError, match="-s80-seed1 with batch_size 16, but .*-s80-seed2 has batch_size 32"):
        merged(done, summary(THERE, "two", {**waiting, "settings": open_ | {"batch_size": 32}}))
    with pytest.raises(
        UserError, match="-s80-seed1 with learning_rate 0.0003, but .*-s80-seed2 has learning_rate 1e-05"
    ):
        merged(done, summary(THERE, "two", point("cola-default-s80-seed2", settings=open_ | {"learning_rate": 1e-5})))


def test_one_variant_is_of_models_of_one_size():
    def of(name: str, layers: int, hidden: int) -> dict:
        return point(name, dense_structure={"heads": [12] * layers, "intermediate": [64] * layers, "hidden": hidden})

    first = summary(HERE, "one", of("cola-default-s80-seed1", 6, 384))
    same = of("cola-default-s95-seed1", 6, 384)
    unknown, other_task = point("cola-default-s95-seed2"), of("rte-default-s80-seed1", 12, 768)
    assert len(merged(first, summary(THERE, "two", same, unknown, other_task))["points"]) == 4
    with pytest.raises(
        UserError, match="6 layers of 384 hidden dims before pruning, but cola-default-s95-seed3 has 12"
    ):
        merged(first, summary(THERE, "two", of("cola-default-s95-seed3", 12, 768)))


def by_teachers(teachers: dict[int, int | None]) -> list[dict]:
    """Points of one group by their seeds; None as those from before the seed of the teacher was noted."""
    noted = {seed: {} if teacher is None else {"teacher_seed": teacher} for seed, teacher in teachers.items()}
    return [point(f"cola-default-s80-seed{seed}", settings={}, **noted[seed]) for seed in teachers]


@pytest.mark.parametrize("teachers", [{1: 57, 2: None}, {1: 1, 2: 2, 57: 57}, {1: 3, 2: 3, 3: 3}, {2: 3, 1: 3, 3: 3}])
def test_one_variant_learns_from_one_teacher_or_each_seed_from_its_own(teachers):
    check_one_setting(by_teachers(teachers))
    unlike = [point("cola-default-s80-seed4"), point("rte-default-s80-seed1", settings={}, teacher_seed=9)]
    check_one_setting([*by_teachers(teachers), *unlike])  # nothing is known of the first, the second is another task


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({1: 1, 2: 2, 3: 57}, "-seed1 with a teacher of seed 1, but cola-default-s80-seed3 has a teacher of seed 57:"),
        ({1: 57, 2: 57, 3: 3}, "-seed3 with a teacher of seed 3, but cola-default-s80-seed1 has a teacher of seed 57:"),
        ({1: 2, 2: None}, "-seed2 with a teacher of seed 57, but cola-default-s80-seed1 has a teacher of seed 2:"),
        ({1: 3, 2: 3, 3: 3, 4: 4}, "-seed4 with a teacher of seed 4, but .*-seed1 has a teacher of seed 3:"),
        ({3: 3, 4: 4, 1: 3}, "-seed4 with a teacher of seed 4, but .*-seed1 has a teacher of seed 3:"),
    ],
    ids=str,
)
def test_teachers_of_several_seeds_make_no_mean(teachers, message):
    with pytest.raises(UserError, match=message):
        check_one_setting(by_teachers(teachers))
