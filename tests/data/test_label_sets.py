"""Rows with any number of labels: from lists to rows of 0 and 1, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cofi.data import load_splits, load_validation
from cofi.errors import UserError

Write = Callable[..., Path]
TEXTS = ["x", "y", "z"]


def rows_of(table: Any) -> list[list[float]]:
    return np.asarray(table["label"]).tolist()


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list], ids=["list", "large list"])
@pytest.mark.parametrize(
    ("lists", "inner", "names"),
    [
        ([["b"], [], ["a", "c", "a"]], pa.string(), ("a", "b", "c")),
        ([[9], [], [2, 10, 2]], pa.int32(), ("2", "9", "10")),
    ],
    ids=["words", "integers"],
)
def test_lists_are_any_number_of_classes(write: Write, lists: Any, inner: Any, names: Any, kind: Any) -> None:
    path = write("t.parquet", text=TEXTS, label=pa.array(lists, kind(inner)))
    splits = load_splits("text", train_file=path, validation_file=path)
    assert (splits.task.kind, splits.task.main_metric, splits.task.label_names) == ("multi_label", "f1_micro", names)
    assert splits.task.num_labels == 3
    assert rows_of(splits.train) == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert np.asarray(splits.validation["label"]).dtype == np.float32


def test_json_lines_and_rows_that_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"text": "row {i}", "label": {["[]", "[0]", "[0, 1]"][i % 3]}}}\n' for i in range(30)))
    splits = load_splits("text", train_file=path, validation_fraction=0.3)
    assert len(splits.train) + len(splits.validation) == 30
    for table in (splits.train, splits.validation):
        want = {0: [0, 0], 1: [1, 0], 2: [1, 1]}
        assert rows_of(table) == [want[int(text.split()[1]) % 3] for text in table["text"]]


def test_columns_of_zeros_and_ones_are_classes_in_their_order(write: Write, tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text("text,toxic,spam,rude\nx,0,1,0\ny,0,0,0\nz,1,1,0\n")  # one class that no row has
    parquet = write("t.parquet", text=TEXTS, toxic=[False, False, True], spam=[1, 0, 1], rude=[0.0, 0.0, 0.0])
    for path in (csv, parquet):
        splits = load_splits("text", train_file=path, validation_file=path, label_column="toxic,spam,rude")
        assert (splits.task.kind, splits.task.label_names) == ("multi_label", ("toxic", "spam", "rude"))
        table = splits.train
        assert np.asarray(table[splits.task.label_column]).tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
    request = {"validation_file": csv, "label_column": "spam,toxic"}
    alone = load_validation("text", label_names=("toxic", "spam"), **request)
    assert np.asarray(alone.validation["spam,toxic"]).tolist() == [[0, 1], [0, 0], [1, 1]]
    for names in ("toxic", "toxic,rude"):  # the others would pass for absent in every row
        request = {"validation_file": parquet, "label_column": f"{names},spam", "task_kind": "multi_label"}
        with pytest.raises(UserError, match=f"must be those of the classes toxic, spam, odd, got {names},spam"):
            load_validation("text", label_names=("toxic", "spam", "odd"), **request)
    odd = write("odd.parquet", text=TEXTS, **{"a,b": ["p", "q", "p"]})  # a name with a comma is a name
    assert load_splits("text", train_file=odd, validation_file=odd, label_column="a,b").task.kind == "classification"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("toxic,spam", "column 'spam' must hold 0 and 1 for a label, got '2' in row 1"),
        ("toxic,other", "has no column 'other'"),
        ("toxic,toxic", "columns of labels must be named once each, got toxic,toxic"),
        ("toxic,gap", "column 'gap' must not be empty, but row 2"),
        ("toxic,lists", "column 'lists' must hold 0 and 1 for a label, got list"),
        ("toxic,bytes", "column 'bytes' must hold 0 and 1 for a label, got binary"),
    ],
)
def test_columns_that_are_none(write: Write, names: str, message: str) -> None:
    path = write(
        "t.parquet",
        text=TEXTS,
        toxic=[0, 1, 0],
        spam=[1, 2, 0],
        gap=[0, 1, None],
        lists=[[0], [1], []],
        bytes=[b"\xff"] * 3,
    )
    with pytest.raises(UserError, match=message):
        load_splits("text", train_file=path, validation_file=path, label_column=names)


def test_validation_alone_takes_the_classes_of_a_model(write: Write) -> None:
    words = write("w.parquet", text=TEXTS, label=[["b"], [], ["a"]])
    alone = load_validation("text", label_names=("c", "b", "a"), validation_file=words)
    assert rows_of(alone.validation) == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    numbers = write("n.parquet", text=TEXTS, label=[[1], [], [0, 2]])
    alone = load_validation("text", label_names=("LABEL_0", "LABEL_1", "LABEL_2"), validation_file=numbers)
    assert rows_of(alone.validation) == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([["a"], ["b"], []], [["a"], [], ["b", "d"]], r"classes a, b, got 'd' in row 2 \(counted from 0\)"),
        ([["a"], None, ["b"]], [["a"]] * 3, "must not be empty, but row 1"),
        ([["a"], ["b", None], []], [["a"]] * 3, "must not have a label that is null, got None in row 1"),
        ([["a"], [], ["b", ""]], [["a"]] * 3, "must not have a label that is empty, got '' in row 2"),
        ([["a"], [], ["a"]], [["a"]] * 3, "at least 2 classes, all its labels are 'a'"),
        ([[], [], []], [["a"]] * 3, "at least 2 classes, it has no label"),
        ([[0.5], [], [1.5]], [[0.5]] * 3, "must hold lists of integers or words, got double"),
        (pa.array([[1], [2**64 - 1], []], pa.list_(pa.uint64())), [[1]] * 3, "at most 9223372036854775807, got 1844"),
        ([["a"], ["b"], []], ["a", "b", "a"], "must hold lists of labels, for several a row .*, got string"),
    ],
)
def test_what_is_wrong_is_named(write: Write, train: Any, validation: Any, message: str) -> None:
    files = {
        f"{name}_file": write(f"{name}.parquet", text=TEXTS, label=rows)
        for name, rows in (("train", train), ("validation", validation))
    }
    with pytest.raises(UserError, match=message):
        load_splits("text", **files)


def test_too_many_classes_and_numbers_that_are_none(write: Write) -> None:
    path = write("t.parquet", text=["x"], label=[list(range(1001))])
    with pytest.raises(UserError, match="at most 1000 classes, got 1001"):
        load_splits("text", train_file=path, validation_file=path)
    path = write("n.parquet", text=["x"], label=[[2]])
    with pytest.raises(UserError, match="must have labels from 0 to 1, got 2 in row 0"):
        load_validation("text", label_names=("LABEL_0", "LABEL_1"), validation_file=path)


def test_a_kind_that_was_asked_for_wants_lists(write: Write) -> None:
    path = write("t.parquet", text=TEXTS, label=[0, 1, 0])
    with pytest.raises(UserError, match="column 'label' must hold lists of labels, for several a row"):
        load_splits("text", train_file=path, validation_file=path, task_kind="multi_label")
    path = write("l.parquet", text=TEXTS, label=[[0], [1], [0]])
    with pytest.raises(UserError, match="must hold integers, numbers or words, got list"):
        load_splits("text", train_file=path, validation_file=path, task_kind="classification")
