"""Speed in a sweep: measured at the end, of another machine's points as well, and asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cofi.errors import UserError
from cofi.report.values import MISSING, show_ratio
from cofi.sweep.__main__ import main
from cofi.sweep.goal import Goal
from cofi.sweep.measuring import Measurer
from cofi.sweep.results import read_summary
from cofi.sweep.retiming import untimed
from cofi.sweep.store import DONE
from cofi.sweep.summary import Group, known_rates, where
from tests.tiny_profile import write_profile
from tests.tiny_sweep import points


@pytest.fixture(autouse=True)
def _one_state(monkeypatch):
    """Whatever else runs on this machine, all rounds count; the rates of profiles are made up."""
    monkeypatch.setattr("cofi.measure.rate.SLOWER", 1.0)


HERE = {"device": "cpu", "cpu": "this", "threads": 2}


def timed(name: str, gflops: float, *, disturbed: bool = False, **machine: object) -> dict:
    measured = {"gflops": {"batch 1": gflops, "batch 32": gflops + 2}, "disturbed": {"batch 1": disturbed}}
    speedup = {"batch 1": 4.0, "batch 32": 5.0}
    return {"name": name, "status": DONE, "speedup": speedup, "measured": measured, "measured_on": HERE | machine}


def test_points_timed_beside_other_work_or_without_looking_are_timed_again():
    old = timed("old", 0.0) | {"measured": {"rounds": {"batch 1": 9}}}
    records = [timed("a", 150.0), timed("b", 90.0, disturbed=True), {"name": "c", "status": DONE}, old]
    records += [{"name": "d", "status": "waiting"}, timed("e", 150.0, cpu="another")]
    assert [record["name"] for record in untimed(records)] == ["b", "c", "old"]
    assert [record["name"] for record in untimed(records, HERE)] == ["b", "c", "old", "e"]
    assert known_rates([*records, timed("f", 140.0)], HERE) == [150.0, 152.0, 140.0, 142.0]


def test_the_table_says_how_speeds_were_measured():
    machine = HERE | {"commit": "abc", "date": "2026-01-01"}
    records = [timed(name, 150.0, **machine) for name in "ab"] + [timed("busy", 90.0, disturbed=True, **machine)]
    assert where(records, machine).endswith("Timed beside other work, for want of a quiet minute: busy.")
    del records[0]["measured"]["gflops"]
    assert where(records, machine).endswith("1 of 3 speeds are of all rounds, whatever else the machine was doing.")


def test_a_speed_of_a_busy_machine_is_shown_and_marked_where_there_is_no_other():
    points = [timed("a", 150.0), timed("busy", 90.0, disturbed=True)]
    points[1]["speedup"] = {"batch 1": 9.0, "batch 32": 7.0}
    both, busy = (Group("rte", "default", Goal("sparsity", 0.9), tuple(some)) for some in (points, points[1:]))
    assert (both.speedup("batch 1"), both.speedup("batch 32")) == (4.0, 6.0)  # only one of two at batch 1
    assert (busy.speedup("batch 1"), busy.speedup("batch 32"), busy.speedup("batch 8")) == (None, 7.0, None)
    assert [both.show_speedup("batch 1"), busy.show_speedup("batch 1"), busy.show_speedup("batch 32")] == [
        "4.00×",
        "9.00× †",
        "7.00×",
    ]
    assert busy.show_speedup("batch 8") == MISSING


@pytest.mark.parametrize(("known", "gflops"), [([], 120.0), ([150.0, 110.0, 152.0], 150.0), ([90.0, 92.0], 120.0)])
def test_the_state_points_are_timed_in_is_remembered_over_a_busy_hour(monkeypatch, known, gflops):
    monkeypatch.setattr("cofi.sweep.measuring.undisturbed_gflops", lambda device, seconds: 120.0)
    assert Measurer({"device": "cpu", "measure_seconds": 1.0}, known).gflops == gflops


def test_measuring_comes_last_and_once(one, tmp_path, capsys):
    assert main(one) == 0
    output = one[:2]
    assert main([*output, "--measure", "--measure-seconds", "0.1", "--device", "cpu"]) == 0
    found = points(tmp_path / "sweep")
    for point in found.values():
        assert set(point["speedup"]) == {"batch 1", "batch 32"}
        assert point["measured_on"]["device"] == "cpu"
        assert 2 <= point["measured"]["lengths"]["median"] <= 11
    assert "batch 32" in (tmp_path / "sweep" / "table.md").read_text()
    capsys.readouterr()
    assert main([*output, "--measure", "--device", "cpu"]) == 0
    assert "measured" not in capsys.readouterr().out.split("# Results")[0]


def test_points_of_another_machine_are_timed_here_by_their_structure(one, whole, tmp_path, capsys):
    results = tmp_path / "results"
    assert main(["--output", str(whole), "--results", str(results)]) == 0
    summary = read_summary(results)
    elsewhere = {"device": "cpu", "cpu": "another", "threads": 1, "commit": "abc", "date": "2026-01-01"}
    for record in summary["points"]:  # as two other seeds from elsewhere, whose models are not here
        record["name"] = record["name"].replace("seed1", "seed9")
        record |= {"seed": 9, "speedup": {"batch 1": 99.0}, "measured_on": elsewhere}
    of_another_teacher = {**summary["points"][0], "name": "animals-default-s30-seed10", "total_params_after": 1}
    summary["points"].append(of_another_teacher)
    (results / "sweep.json").write_text(json.dumps(summary))

    measure = ["--measure", "--measure-seconds", "0.1", "--device", "cpu", "--results", str(results)]
    assert main(one) == 0
    assert main([*one[:2], *measure]) == 0
    assert points(results)["animals-default-s30-seed9"]["speedup"] == {"batch 1": 99.0}  # not asked for
    speed = tmp_path / "sweep" / "points" / "animals-default-s30-seed1" / "speed.json"
    here = json.loads(speed.read_text())["machine"]
    speed.write_text(json.dumps(json.loads(speed.read_text()) | {"machine": elsewhere}))  # as if brought along
    capsys.readouterr()
    assert main([*one[:2], *measure, "--retime"]) == 0
    said, found = capsys.readouterr().out, points(results)
    assert json.loads(speed.read_text())["machine"] == here == found["animals-default-s30-seed1"]["measured_on"]
    timed = found["animals-default-s30-seed9"]
    assert set(timed["speedup"]) == {"batch 1", "batch 32"} and timed["speedup"]["batch 1"] < 99.0
    assert timed["measured_on"] == found["animals-default-s30-seed1"]["measured_on"]
    assert "not timed: beasts-default-s30-seed9: --task must be one of" in said  # nor does the command say where it is
    assert "not timed: animals-default-s30-seed10: its structure makes" in said
    for name in ("beasts-default-s30-seed9", "animals-default-s30-seed10"):
        assert found[name]["speedup"] == {"batch 1": 99.0} and found[name]["measured_on"] == elsewhere
    assert main([*one[:2], *measure, "--retime"]) == 0
    assert "\ntimed" not in capsys.readouterr().out  # of this machine by now


def test_points_are_timed_on_their_own_rows_whichever_variant_is_here(one, tmp_path):
    results, measure = str(tmp_path / "results"), ["--measure", "--measure-seconds", "0.1", "--device", "cpu"]
    long, short = (
        ["--variant", f"{name}=--finetune-epochs 0.5{more}"]
        for name, more in (("long", ""), ("short", " --max-length 4"))
    )
    assert main([*one, *long, *measure, "--results", results]) == 0
    summary = read_summary(Path(results))
    (record,) = summary["points"]
    lengths = record["measured"]["lengths"]
    record["measured_on"]["cpu"] = "another"
    (tmp_path / "results" / "sweep.json").write_text(json.dumps(summary))
    elsewhere = ["--output", str(tmp_path / "elsewhere")]
    assert main([*one, *elsewhere, *short]) == 0
    assert main([*elsewhere, *measure, "--results", results, "--retime"]) == 0
    found = points(tmp_path / "results")
    assert found["animals-long-s30-seed1"]["measured_on"]["cpu"] != "another"
    assert found["animals-long-s30-seed1"]["measured"]["lengths"] == lengths
    assert found["animals-short-s30-seed1"]["measured"]["lengths"]["longest"] == 4 < lengths["longest"]


def test_published_points_are_timed_without_any_training(whole, checkpoint, two_tasks, tmp_path, capsys):
    results, output = tmp_path / "results", tmp_path / "nothing yet"
    assert main(["--output", str(whole), "--results", str(results)]) == 0
    before = points(results)
    assert all("speedup" not in point for point in before.values())
    words = ["--output", str(output), "--measure", "--measure-seconds", "0.1", "--device", "cpu"]
    words += ["--model", str(checkpoint), "--data", str(two_tasks), "--results", str(results), "--retime"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"2 points of {results} to time, timing where a plain product makes " in said
    assert "timed 2 of 2: beasts-default-s30-seed1: batch 1 " in said
    found = points(results)
    for name, point in found.items():
        assert set(point["speedup"]) == {"batch 1", "batch 32"}
        assert 2 <= point["measured"]["lengths"]["median"] <= 11  # of the validation rows
        assert {key: point[key] for key in before[name]} == before[name]  # and nothing else has changed
    assert "timed" not in (output / "table.md").read_text().split("## Commands")[0]
    assert not (output / "points").exists()


def test_retiming_needs_a_folder(one):
    with pytest.raises(UserError, match="--retime needs --measure and --results"):
        main([*one, "--measure", "--retime"])


def test_a_sweep_by_speedup(one, tmp_path):
    words = [*one[: one.index("--sparsities")], *one[one.index("--sparsities") + 2 :], "--target-speedups", "1.5"]
    profile = str(write_profile(tmp_path))
    flags = ["--device-profile", profile, "--gate-prior", "none", "--measure-seconds", "0.4"]
    assert main([*words, *flags]) == 0
    (record,) = points(tmp_path / "sweep").values()
    assert record["name"] == "animals-default-x1.5-seed1" and record["status"] == "done"
    assert record["target_speedup"] == 1.5 and "target_sparsity" not in record
    result = json.loads((tmp_path / "sweep" / "points" / record["name"] / "run" / "result.json").read_text())
    delivered = result["target_speedup"]["measured"]
    assert record["delivered_speedup"] == delivered and result["target_speedup"]["calibration"]["rounds"]
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert "| variant | asked | delivered |" in table and f"| default | 1.50× | {show_ratio(delivered)} |" in table
    assert main(["--output", str(tmp_path / "sweep")]) == 0  # read again
