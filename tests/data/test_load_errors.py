"""Whatever is wrong with the data ends in one error that names file, column, row, rule and value."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cofi.data import load_splits, load_validation
from cofi.data.table import read_table
from cofi.errors import UserError

Write = Callable[..., Path]
TEXTS = ["x", "y", "z"]


def check(message: str, task: str = "text", **request: Any) -> None:
    with pytest.raises(UserError, match=message):
        load_splits(task, **request)


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        (
            {"label": [0, 1, -1]},
            "sst2",
            r"t\.parquet: column 'label' must be 0 to 1 .*, got -1 in row 2 \(counted from 0\)",
        ),
        ({"label": [-1, -1, -1]}, "sst2", "all rows are -1: a test set without labels"),
        ({"label": [0, 2, 1]}, "sst2", "must be 0 to 1 .negative, positive., got 2 in row 1"),
        ({"label": ["positive", "neutral", "negative"]}, "sst2", "one of the classes .*, got 'neutral' in row 1"),
        ({"label": [0.0, 0.5, 1.0]}, "sst2", "whole numbers or words to name classes, got 0.5 in row 1"),
        ({"label": [0, None, 1]}, "sst2", r"column 'label' must not be empty, but row 1 \(counted from 0\) is null"),
        ({"label": [[0], [1], [1]]}, "sst2", "must hold integers, numbers or words, got list"),
        ({"label": ["a", "", "b"]}, "text", "column 'label' must not be empty, got '' in row 1"),
        ({"label": [1, 1, 1]}, "text", "at least 2 classes, all its labels are 1"),
        ({"label": [1.0, 0.0, 1.0]}, "text", r"holds whole numbers only, stored as 1\.0: --task-kind must say whether"),
        ({"label": [0.0, float("nan"), 1.0]}, "text", "must hold finite numbers, got nan in row 1"),
        ({"label": pa.array([0, 1, 2**64 - 1], pa.uint64())}, "text", "must be at most 9223372036854775807"),
        ({"label": [-1.0, -1.0, -1.0]}, "text", "stored as -1.0: --task-kind must say"),
        ({"label": [1e30, 0.0, 1.0]}, "sst2", "whole numbers or words to name classes, got 1e[+]30 in row 0"),
        ({"labels": [0, 1, 1]}, "sst2", r"has no column 'label' \(columns: sentence, labels\)"),
    ],
)
def test_labels(write: Write, columns: dict[str, Any], task: str, message: str) -> None:
    path = write("t.parquet", sentence=TEXTS, **columns)
    check(message, task, train_file=path, validation_file=path)


@pytest.mark.parametrize("label", ["high", "n/a"])
def test_words_where_numbers_must_be(tmp_path: Path, label: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\na,1.5\nb,{label}\n")
    message = f"must hold numbers for regression, got '{label}' in row 1"
    check(message, train_file=path, validation_file=path, task_kind="regression")


def test_numbers_of_a_test_set(write: Write) -> None:
    path = write("t.parquet", sentence1=TEXTS, sentence2=TEXTS, label=[-1.0, -1.0, -1.0])
    check(
        "column 'label' must hold numbers .*, all rows are -1: a test set",
        "stsb",
        train_file=path,
        validation_file=path,
    )
    one = write("one.parquet", sentence1=["x"], sentence2=["y"], label=[-1.0])  # a number like any other
    assert load_splits("stsb", train_file=one, validation_file=one).train["label"] == [-1.0]


def test_labels_that_are_the_text(write: Write) -> None:
    path = write("t.parquet", text=TEXTS, label=["a", "b", "a"])
    files = {"train_file": path, "validation_file": path}
    check("column 'label' must hold the labels or the text, not both", text_column="label", **files)
    check("column 'text' must hold the labels or the text, not both", label_column="text", **files)
    assert load_splits("text", task_kind="embedding", text_column="label", **files).train["label"] == ["a", "b"]


def test_too_many_classes(write: Write) -> None:
    path = write("t.parquet", text=["x"] * 1001, label=list(range(1001)))
    check("at most 1000 classes, got 1001", train_file=path, validation_file=path)


def test_validation_label_unknown_to_training(write: Write) -> None:
    train = write("train.parquet", text=TEXTS, label=["a", "b", "a"])
    validation = write("held.parquet", text=TEXTS, label=["a", "b", "c"])
    check(r"held\.parquet: column 'label' must be one of the classes a, b, got 'c' in row 2",
          train_file=train, validation_file=validation)  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["x", None, "z"]}, r"column 'sentence' must not be empty, but row 1 \(counted from 0\) is null"),
        ({"sentence": [1, 2, 3]}, "column 'sentence' must hold text, got int64"),
        ({"text": TEXTS}, r"has no column 'sentence' \(columns: text, label\)"),
    ],
)
def test_texts(write: Write, columns: dict[str, Any], message: str) -> None:
    path = write("t.parquet", **columns, label=[0, 1, 1])
    check(message, "sst2", train_file=path, validation_file=path)


def test_columns_that_cannot_be_found(write: Write) -> None:
    path = write("t.parquet", left=TEXTS, right=TEXTS, label=[0, 1, 1])
    files = {"train_file": path, "validation_file": path}
    check(r"--text-column \(columns: left, right, label\)", **files)
    check("--pair-column right needs --text-column", pair_column="right", **files)
    check(r"no column 'middle' \(columns: left, right, label\)", text_column="middle", **files)
    check("no column 'gold'", text_column="left", label_column="gold", **files)


def test_files_that_cannot_be_read(tmp_path: Path, write: Write) -> None:
    good = write("good.parquet", text=TEXTS, label=[0, 1, 1])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-20])
    bad = {
        "missing.parquet": ("no such file: .*missing.parquet .*holds: .*good.parquet", None),
        "nowhere/x.csv": ("there is no directory .*nowhere", None),
        "cut.parquet": ("cannot read .*cut.parquet as Parquet", None),
        "noise.parquet": ("cannot read .*noise.parquet as Parquet", b"text,label\na,1\n"),
        "empty.csv": ("cannot read .*empty.csv as CSV", b""),
        "ragged.csv": ("cannot read .*ragged.csv as CSV: .*Expected 2 columns, got 3", b"text,label\na,1\nb,0,9\n"),
        "latin.csv": ("cannot read .*latin.csv as CSV", b"text,label\ncaf\xe9,1\n"),
        "wide.csv": (
            "wide.csv must be UTF-8 text, got UTF-16 .*ff fe",
            codecs.BOM_UTF16_LE + "text,label\na,1\n".encode("utf-16-le"),
        ),
        "wide.jsonl": ("wide.jsonl must be UTF-8 text, got UTF-16 .*fe ff", codecs.BOM_UTF16_BE + b"\0{\0}"),
        "head.csv": ("head.csv has no rows", b"text,label\n"),
        "twice.csv": ("more than one column called text", b"text,text,label\na,b,1\n"),
        "list.json": ("cannot read .*list.json as JSON lines", b'[{"text": "a", "label": 1}]'),
        "latin.jsonl": ("cannot read .*latin.jsonl as JSON lines: .*UTF8", b'{"text": "caf\xe9", "label": 1}\n'),
        "notes.txt": ("must end in .parquet, .csv, .jsonl, .json, got .*notes.txt", b"text"),
    }
    for name, (message, content) in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        check(message, train_file=tmp_path / name, validation_file=good)
    check("not a file", train_file=tmp_path, validation_file=good)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("long.csv", (b"text,label\na,0\n", b"x", b",1\nb,0\n")),
        ("open.csv", (b'text,label\n"a,0\n', b"b,1\n", b"")),
        ("names.csv", (b"", b"x", b",label\na,0\n")),
        ("long.jsonl", (b'{"text": "', b"x", b'", "label": 1}\n')),
    ],
    ids=["csv", "open quote", "names", "jsonl"],
)
def test_rows_longer_than_any_text(tmp_path: Path, name: str, parts: tuple[bytes, bytes, bytes]) -> None:
    head, filling, end = parts
    (tmp_path / name).write_bytes(head + filling * ((40 << 20) // len(filling)) + end)
    with pytest.raises(UserError, match=rf"{name} as .*: a row must have at most {16 << 20} bytes, got a longer one"):
        read_table(tmp_path / name)


def test_empty_parquet(write: Write) -> None:
    path = write("t.parquet", text=pa.array([], pa.string()), label=pa.array([], pa.int64()))
    check("t.parquet has no rows", train_file=path, validation_file=path)


def test_data_directory(write: Write, tmp_path: Path) -> None:
    write("mnli/train_subset.parquet", premise=TEXTS, hypothesis=TEXTS, label=[0, 1, 2])
    write("mnli/validation_matched.parquet", premise=TEXTS, hypothesis=TEXTS, label=[0, 1, 2])
    write("toy/train.parquet", text=TEXTS, label=[0, 1, 1])
    check("no train.parquet .*mnli holds: train_subset.parquet, .*; name another file with --train-file",
          "mnli", data_dir=tmp_path)  # fmt: skip
    check("no validation.parquet .*--validation-file or use --validation-fraction", "toy", data_dir=tmp_path)
    check("no folder sst2 in the data directory .*holds: mnli, toy", "sst2", data_dir=tmp_path)
    check("no such directory: --data .*gone", "sst2", data_dir=tmp_path / "gone")


@pytest.mark.parametrize("name", ["sst-2", "../mnli", ""])
def test_task_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "mnli").mkdir()
    (tmp_path / "data").mkdir()
    check(
        r"--task must be one of sst2, mnli, .*pydocs, text, or .*--data directory, got ",
        name,
        data_dir=tmp_path / "data",
    )


def test_text_without_files(write: Write) -> None:
    check("no data of its own: give --train-file")
    path = write("t.parquet", text=TEXTS, label=[0, 1, 1])
    check("needs --validation-file FILE, or --validation-fraction", train_file=path)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"max_train_samples": 0}, "max_train_samples must be at least 1, got 0"),
        ({"max_eval_samples": -3}, "max_eval_samples must be at least 1, got -3"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1, got 1.0"),
        ({"validation_fraction": 0.1, "validation_file": "x.csv"}, "give one"),
        (
            {"task_kind": "ranking"},
            "task_kind must be one of auto, .*, embedding, got 'ranking'",
        ),
    ],
)
def test_request(request_: dict[str, Any], message: str) -> None:
    check(message, "text", train_file="t.csv", **request_)


def test_fraction_that_leaves_nothing(write: Write) -> None:
    path = write("t.parquet", text=["same"] * 4, label=[0, 1, 0, 1])
    check("validation_fraction 0.5 leaves no .* rows of the 4", train_file=path, validation_fraction=0.5)


def test_kind_of_a_known_task_is_fixed(write: Write) -> None:
    path = write("t.parquet", sentence=TEXTS, label=[0, 1, 1])
    check("task sst2 is classification; --task-kind cannot make it regression", "sst2",
          train_file=path, validation_file=path, task_kind="regression")  # fmt: skip
    answers = [{"text": ["x"], "answer_start": [0]}] * 3
    path = write("qa.parquet", question=TEXTS, context=TEXTS, answers=answers)
    check("task squad is question_answering; --task-kind cannot make it embedding", "squad",
          train_file=path, validation_file=path, task_kind="embedding")  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": [], "answer_start": []}, "row 1 .*: SQuAD 1.1 has an answer to every question, got none"),
        ({"text": ["deep"], "answer_start": [4]}, "must read 'deep' at answer_start 4, it reads 'rive'"),
        ({"text": ["deep"], "answer_start": [100]}, "must read 'deep' at answer_start 100, it reads ''"),
        ({"text": ["deep"], "answer_start": [-4]}, "must read 'deep' at answer_start -4"),
        ({"text": [""], "answer_start": [0]}, "must read '' at answer_start 0"),
        ({"text": ["deep", "the"], "answer_start": [10]}, "lists of one length"),
        ({"text": None, "answer_start": [10]}, "lists of one length"),
        ({"text": ["deep"], "answer_start": [None]}, "a text and an integer, got 'deep' and None"),
    ],
)
def test_answers(write: Write, answers: dict[str, Any], message: str) -> None:
    good = {"text": ["deep"], "answer_start": [10]}
    kind = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
    path = write(
        "t.parquet", question=["q", "q"], context=["the river deep"] * 2, answers=pa.array([good, answers], kind)
    )
    check(message, "squad", train_file=path, validation_file=path)


def test_answers_of_another_type(write: Write) -> None:
    path = write("t.parquet", question=["q"], context=["c"], answers=["c"])
    check("column 'answers' must hold structs of text and answer_start, got string", "squad",
          train_file=path, validation_file=path)  # fmt: skip


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check("cannot load nyu-mll/glue/sst2 .train. .*reach the hub; give --data DIR with DIR/sst2/train.parquet", "sst2")
    check("cannot load rajpurkar/squad", "squad")


def test_classes_of_a_model_that_the_file_does_not_use(write: Write) -> None:
    words = write("w.parquet", text=TEXTS, label=["good", "bad", "ugly"])
    with pytest.raises(UserError, match="one of the classes good, bad, got 'ugly' in row 2"):
        load_validation("text", label_names=("good", "bad"), validation_file=words)
    numbers = write("n.parquet", text=TEXTS, label=np.array([0, 1, 2]))
    with pytest.raises(UserError, match=r"must be 0 to 1 \(good, bad\), got 2 in row 2"):
        load_validation("text", label_names=("good", "bad"), validation_file=numbers)
    stars = write("s.parquet", text=TEXTS, label=np.array([1, 2, 3]))
    with pytest.raises(UserError, match="one of the classes 1, 2, got '3' in row 2"):
        load_validation("text", label_names=("1", "2"), validation_file=stars)
