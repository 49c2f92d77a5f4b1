"""Rows of a task from files of every format, from the data directory and from the shared real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cofi.data import TASKS, load_splits, load_validation
from cofi.data.text import COLUMN_PATTERNS

Write = Callable[..., Path]
GLUE_SIZES = {  # rows, and how many have each label; from the data sets' cards
    "sst2": (67349, 872, [428, 444]),
    "cola": (8551, 1043, [322, 721]),
    "mrpc": (3668, 408, [129, 279]),
    "rte": (2490, 277, [146, 131]),
}


@pytest.mark.parametrize("name", GLUE_SIZES)
def test_glue_from_the_data_directory(data_dir: Path, name: str) -> None:
    n_train, n_validation, counts = GLUE_SIZES[name]
    splits = load_splits(name, data_dir=data_dir)
    assert (len(splits.train), len(splits.validation)) == (n_train, n_validation)
    labels = splits.validation["label"]
    assert [labels.count(label) for label in range(2)] == counts
    assert splits.task == TASKS[name]
    assert set(splits.train.columns) == {TASKS[name].text_column, TASKS[name].pair_column, "label"} - {None}


def test_stsb_labels_are_numbers(data_dir: Path) -> None:
    splits = load_splits("stsb", data_dir=data_dir, max_train_samples=5, max_eval_samples=7)
    assert (len(splits.train), len(splits.validation)) == (5, 7)
    assert splits.train["label"] == pytest.approx([5.0, 3.8, 3.8, 2.6, 4.25])
    assert splits.task.num_labels == 1


def test_mnli_takes_a_named_training_file_and_the_matched_set(data_dir: Path) -> None:
    subset = data_dir / "mnli" / "train_subset.parquet"
    splits = load_splits("mnli", data_dir=data_dir, train_file=subset, max_eval_samples=50)
    assert len(splits.train) == 9888 and len(splits.validation) == 50
    assert splits.extra == {}
    assert splits.task.label_names == ("entailment", "neutral", "contradiction")


def test_mnli_mismatched_is_used_where_present(write: Write, tmp_path: Path) -> None:
    rows = {"premise": ["a", "b", "c"], "hypothesis": ["x", "y", "z"], "label": [0, 2, 1]}
    for name in ("train", "validation_matched", "validation_mismatched"):
        write(f"mnli/{name}.parquet", **rows)
    splits = load_splits("mnli", data_dir=tmp_path, max_eval_samples=2)
    assert list(splits.extra) == ["mismatched"] and len(splits.extra["mismatched"]) == 2
    named = load_splits("mnli", data_dir=tmp_path, validation_file=tmp_path / "mnli" / "train.parquet")
    assert named.extra == {}


@pytest.mark.parametrize(("text", "pair"), COLUMN_PATTERNS)
def test_unknown_task_is_found_by_its_columns(write: Write, tmp_path: Path, text: str, pair: str | None) -> None:
    rows = {name: ["a", "b", "c"] for name in (text, pair) if name is not None}
    for split in ("train", "validation"):
        write(f"wnli/{split}.parquet", **rows, label=[0, 1, 1], idx=[0, 1, 2])
    task = load_splits("wnli", data_dir=tmp_path).task
    assert (task.text_column, task.pair_column, task.kind) == (text, pair, "classification")
    assert task.label_names == ("0", "1")


def test_unknown_task_with_answers_is_question_answering(write: Write, tmp_path: Path) -> None:
    answers = [{"text": ["deep"], "answer_start": [10]}]
    for split in ("train", "validation"):
        write(f"rivers/{split}.parquet", context=["the river deep"], question=["how?"], answers=answers)
    splits = load_splits("rivers", data_dir=tmp_path)
    assert splits.task.kind == "question_answering" and splits.task.main_metric == "f1"
    assert splits.train["id"] == ["0"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked as UTF-8"])
@pytest.mark.parametrize(
    ("name", "head", "row"),
    [("t.csv", b"text,label\n", b"%s,%d\n"), ("t.jsonl", b"", b'{"text": "%s", "label": %d}\n')],
    ids=["csv", "jsonl"],
)
def test_texts_of_megabytes(tmp_path: Path, name: str, head: bytes, row: bytes, mark: bytes) -> None:
    path, long = tmp_path / name, "x" * (3 << 20)
    path.write_bytes(mark + head + row % (b"a", 0) + row % (long.encode(), 1) + row % (b"b", 0))
    splits = load_splits("text", train_file=path, validation_file=path)
    assert splits.train["text"] == ["a", long, "b"]


def test_csv_texts_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('text,label\n007,1\n"two\nlines, quoted",0\n1.50,1\n')
    splits = load_splits("text", train_file=path, validation_file=path)
    assert splits.train["text"] == ["007", "two\nlines, quoted", "1.50"]
    assert splits.train["label"] == [1, 0, 1] and splits.task.label_names == ("0", "1")


def test_json_lines_with_words_for_labels(tmp_path: Path) -> None:
    train, validation = tmp_path / "a.jsonl", tmp_path / "b.json"
    rows = [{"review": "fine", "stars": "good"}, {"review": "poor", "stars": "bad"}]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    validation.write_text(json.dumps(rows[1]) + "\n")
    splits = load_splits("text", train_file=train, validation_file=validation, label_column="stars")
    assert splits.task.text_column == "review"  # the only column that is not the label
    assert splits.task.label_names == ("bad", "good")
    assert (splits.train["stars"], splits.validation["stars"]) == ([1, 0], [0])


@pytest.mark.parametrize(
    ("labels", "kind", "names", "expected"),
    [
        ([3, 1, 10], "auto", ("1", "3", "10"), [1, 0, 2]),
        (["b", "a", "b"], "auto", ("a", "b"), [1, 0, 1]),
        ([True, False, True], "auto", ("false", "true"), [1, 0, 1]),
        ([0.5, 1.0, 2.0], "auto", None, [0.5, 1.0, 2.0]),
        ([1, 2, 3], "regression", None, [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 2.0], "classification", ("1", "2"), [0, 1, 1]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), "auto", ("a", "b"), [1, 0, 1]),
    ],
    ids=["integers", "words", "booleans", "fractions", "told_regression", "told_classes", "dictionary"],
)
def test_kinds_of_labels(
    write: Write, labels: object, kind: str, names: tuple[str, ...] | None, expected: list
) -> None:
    path = write("t.parquet", text=["x", "y", "z"], label=labels)
    splits = load_splits("text", train_file=path, validation_file=path, task_kind=kind)
    assert splits.task.label_names == names
    assert splits.task.kind == ("regression" if names is None else "classification")
    assert splits.train["label"] == expected


def test_csv_names_of_digits_survive(tmp_path: Path) -> None:
    train, validation = tmp_path / "train.csv", tmp_path / "validation.csv"
    train.write_text("text,label\na,007\nb,x\n")
    validation.write_text("text,label\na,007\n")
    splits = load_splits("text", train_file=train, validation_file=validation)
    assert splits.task.label_names == ("007", "x") and splits.validation["label"] == [0]


def test_digits_as_text_are_in_the_order_of_their_numbers(write: Write) -> None:
    labels = [str(i) for i in range(-1, 12)]
    path = write("t.parquet", text=["x"] * 13, label=pa.array(labels[::-1], pa.string_view()))
    assert load_splits("text", train_file=path, validation_file=path).task.label_names == tuple(labels)
    odd = write("odd.parquet", text=["x"] * 3, label=["9", "10", "010"])  # a name is no number
    assert load_splits("text", train_file=odd, validation_file=odd).task.label_names == ("010", "10", "9")


def test_whole_numbers_with_a_point_are_classes_of_a_known_task(write: Write, tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text("sentence,label\na,1.0\nb,0.0\n")
    assert load_splits("sst2", train_file=csv, validation_file=csv).train["label"] == [1, 0]
    request = {"validation_file": csv, "label_names": ("dull", "fine"), "task_kind": "classification"}
    assert load_validation("text", **request).validation["label"] == [1, 0]


def test_glue_labels_may_be_names(write: Write) -> None:
    path = write("t.parquet", sentence=["x", "y"], label=["positive", "negative"])
    assert load_splits("sst2", train_file=path, validation_file=path).train["label"] == [1, 0]


def test_class_names_are_those_of_all_training_rows(write: Write) -> None:
    path = write("t.parquet", text=["x", "y", "z"], label=["b", "a", "c"])
    splits = load_splits("text", train_file=path, validation_file=path, max_train_samples=1)
    assert len(splits.train) == 1 and splits.task.label_names == ("a", "b", "c")


def test_held_out_rows_depend_on_their_text_alone(write: Write) -> None:
    texts = [f"row {i}" for i in range(400)]
    forward = write("a.parquet", text=texts + texts[:50], label=[i % 2 for i in range(450)])
    backward = write("b.parquet", text=texts[::-1], label=[i % 2 for i in range(400)])
    first = load_splits("text", train_file=forward, validation_fraction=0.2)
    second = load_splits("text", train_file=backward, validation_fraction=0.2)
    assert set(first.validation["text"]) == set(second.validation["text"])
    assert not set(first.train["text"]) & set(first.validation["text"])
    assert len(first.train) + len(first.validation) == 450
    assert 50 < len(set(first.validation["text"])) < 110


def test_held_out_questions_do_not_share_a_passage(write: Write) -> None:
    contexts = [f"passage {i // 4}" for i in range(80)]
    answers = [{"text": ["passage"], "answer_start": [0]}] * 80
    path = write("t.parquet", context=contexts, question=[f"q{i}" for i in range(80)], answers=answers)
    splits = load_splits("squad", train_file=path, validation_fraction=0.3)
    assert not set(splits.train["context"]) & set(splits.validation["context"])


def test_validation_alone_takes_the_classes_of_a_model(write: Write) -> None:
    words = write("w.parquet", text=["x", "y"], label=["good", "bad"])
    numbers = write("n.parquet", text=["x", "y"], label=[1, 0])
    named = load_validation("text", label_names=("good", "bad", "ugly"), validation_file=words)
    assert named.validation["label"] == [0, 1] and named.task.num_labels == 3
    for names in (("LABEL_0", "LABEL_1"), ("good", "bad")):  # integers can only be the numbers of these
        numbered = load_validation("text", label_names=names, validation_file=numbers)
        assert numbered.validation["label"] == [1, 0] and numbered.task.label_names == names
    numbered = load_validation("text", label_names=("1", "0"), validation_file=numbers)  # here they are names
    assert numbered.validation["label"] == [0, 1]


def test_columns_can_be_named(write: Write) -> None:
    path = write("t.parquet", left=["a", "b"], right=["c", "d"], gold=[0, 1], note=["-", "-"])
    splits = load_splits(
        "text", train_file=path, validation_file=path, text_column="left", pair_column="right", label_column="gold"
    )
    assert splits.train.columns == {"left": ["a", "b"], "right": ["c", "d"], "gold": [0, 1]}


def test_squad_from_the_data_directory(data_dir: Path) -> None:
    splits = load_splits("squad", data_dir=data_dir, max_train_samples=100, max_eval_samples=100)
    row = splits.validation["answers"][0]
    assert len(splits.validation) == 100 and len(row["text"]) == len(row["answer_start"]) == 3


def test_hub_is_asked_without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(path: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, config, split))
        return datasets.Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [2]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = load_splits("mnli")
    assert splits.train["label"] == [2] and list(splits.extra) == ["mismatched"]
    assert asked == [("nyu-mll/glue", "mnli", s) for s in ("train", "validation_matched", "validation_mismatched")]


def test_texts_to_embed_are_those_of_both_columns_each_once(write: Write) -> None:
    path = write("t.parquet", sentence1=["a", "b", "a"], sentence2=["b", "c", "d"], label=[1.5, 2.5, 3.5])
    splits = load_splits("text", train_file=path, validation_file=path, task_kind="embedding")
    assert splits.task.kind == "embedding" and splits.task.head == "embedding"
    assert splits.train.columns == {"sentence1": ["a", "b", "c", "d"]}


def test_texts_to_embed_need_no_labels_and_any_task_has_some(write: Write, data_dir: Path) -> None:
    path = write("t.parquet", text=["a", "b", "c", "d"])
    splits = load_splits("text", train_file=path, validation_fraction=0.5, task_kind="embedding")
    assert sorted(splits.train["text"] + splits.validation["text"]) == ["a", "b", "c", "d"]
    glue = load_splits("mrpc", data_dir=data_dir, task_kind="embedding", max_eval_samples=10)
    assert len(glue.validation) == 20 and glue.task.label_names is None
    assert glue.task.main_metric == "spearmanr"
