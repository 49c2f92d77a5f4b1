"""Reading a run's files: unfinished, torn, resumed, broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cofi.errors import UserError
from cofi.report import reading
from cofi.report.reading import Phase, read_run
from cofi.report.values import Sizes


def append(directory: Path, text: str) -> None:
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(text)


def line(step: int, phase: str = "prune", **values: object) -> str:
    return json.dumps({"type": "step", "phase": phase, "step": step, **values}) + "\n"


def test_phases_cover_the_run_in_order(make_run, result):
    phases = read_run(make_run(result)).phases
    assert phases == [
        Phase("teacher", 0, 20),
        Phase("distil", 20, 35),
        Phase("prune", 35, 95),
        Phase("finetune", 95, 120),
    ]


def test_torn_last_line_is_left_out(make_run):
    directory = make_run(None)
    before = read_run(directory)
    append(directory, line(121, "finetune")[:-20])
    after = read_run(directory)
    assert (after.steps, after.notes) == (before.steps, ())


def test_a_complete_last_line_needs_no_newline(make_run):
    directory = make_run(None)
    append(directory, line(121, "finetune").rstrip("\n"))
    assert read_run(directory).steps[-1]["step"] == 121


def test_unreadable_lines_are_skipped_and_counted(make_run):
    directory = make_run(None)
    count = len(read_run(directory).steps)
    broken = [
        "{",
        "[]",
        '{"type": "step"}',
        '{"type": "step", "phase": "prune", "step": null}',
        "\x00" * 5,
        "[" * 100_000,
    ]
    append(directory, "\n".join(broken) + "\n\n" + line(121, "finetune"))
    run = read_run(directory)
    assert len(run.steps) == count + 1
    assert run.notes == ("Lines of metrics.jsonl that could not be read and were skipped: 6.",)


def test_steps_written_again_after_a_resume_replace_the_old_ones(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(line(step, loss=1.0) for step in range(8)))
    append(tmp_path, "".join(line(step, loss=2.0) for step in (5, 6)))
    steps = read_run(tmp_path).steps
    assert [(record["step"], record["loss"]) for record in steps[-3:]] == [(4, 1.0), (5, 2.0), (6, 2.0)]


def test_one_step_may_end_a_phase_and_start_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(3, "distil") + line(3, "prune"))
    assert [record["phase"] for record in read_run(tmp_path).steps] == ["distil", "prune"]


def test_dense_sizes_come_from_the_teacher_if_as_deep(make_run, result):
    del result["dense_structure"]
    directory = make_run(result)
    assert read_run(directory).dense_structure is None
    (directory / "teacher").mkdir()
    config = {"num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_size": 768}
    (directory / "teacher" / "config.json").write_text(json.dumps(config))
    assert read_run(directory).dense_structure == Sizes((12,) * 3, (3072,) * 3, 768)
    (directory / "teacher" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    assert read_run(directory).dense_structure is None


def test_a_run_under_way_shows_the_last_evaluated_structure(make_run):
    assert read_run(make_run(None)).structure == Sizes((2, 0, 1), (300, 12, 0), 764)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", "{", "cannot be read as JSON"),
        ("result.json", "[1]", "must hold a JSON object, got list"),
        ("result.json", "[" * 100_000, "cannot be read as JSON"),
        ("config.yaml", "a: [", "cannot be read as YAML"),
        ("config.yaml", "- 1", "must hold a YAML object, got list"),
        ("config.yaml", "a: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("config.yaml", b"\xff\xfe\xff", "cannot be read as UTF-8"),
    ],
)
def test_broken_files_are_user_errors_that_name_them(make_run, result, name, content, message):
    directory = make_run(result)
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        read_run(directory)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "structure",
    [
        "text",
        {},
        {"heads": [1, 2], "intermediate": [1], "hidden": 3},
        {"heads": [], "intermediate": [], "hidden": 3},
        {"heads": [1.5], "intermediate": [1], "hidden": 3},
        {"heads": [-1], "intermediate": [1], "hidden": 3},
        {"heads": [True], "intermediate": [1], "hidden": 3},
        {"heads": [1], "intermediate": [2**40], "hidden": 3},
        {"heads": [1], "intermediate": [1], "hidden": None},
        {"heads": [1] * 5000, "intermediate": [1] * 5000, "hidden": 1},
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_structure_is_a_user_error(make_run, result, structure):
    run = read_run(make_run(result | {"structure": structure}))
    with pytest.raises(UserError, match=r"result\.json.*structure"):
        _ = run.structure


def test_a_directory_without_files_of_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="is not a run directory"):
        read_run(tmp_path / "absent")


def test_a_file_too_large_is_refused_before_it_is_read(make_run, result, monkeypatch):
    directory = make_run(result)
    monkeypatch.setitem(reading.MAX_BYTES, "result.json", 100)
    with pytest.raises(UserError, match="more than the 100 bytes"):
        read_run(directory)
