"""Labels of words: from lists in a file to the label at the first token of each word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from cofi.data import Task, load_splits, load_validation, tokenize
from cofi.data.text import with_kind
from cofi.errors import UserError

Write = Callable[..., Path]
WORDS = [["new", "york", "is", "deep"], [], ["the", "cat"]]
TAGS = [["B", "I", "O", "O"], [], ["O", "O"]]


def rows_of(table: Any, column: str) -> list[list[int]]:
    return [list(map(int, row)) for row in table[column]]


@pytest.mark.parametrize(
    ("words", "labels"), [("tokens", "ner_tags"), ("words", "tags"), ("tokens", "labels"), ("words", "label")]
)
def test_lists_of_words_with_a_label_each(write: Write, words: str, labels: str) -> None:
    path = write("t.parquet", id=["0", "1", "2"], **{words: WORDS, labels: TAGS})
    splits = load_splits("text", train_file=path, validation_file=path)
    assert (splits.task.kind, splits.task.head) == ("token_classification", "token_classification")
    assert (splits.task.label_names, splits.task.main_metric) == (("B", "I", "O"), "f1")
    assert splits.train[words] == WORDS
    assert rows_of(splits.train, labels) == [[0, 1, 2, 2], [], [2, 2]]
    again = load_validation("text", label_names=("O", "I", "B"), validation_file=path)
    assert rows_of(again.validation, labels) == [[2, 1, 0, 0], [], [0, 0]]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"words": ["a", "b"], "tags": ["O", "B-{kind}"]}}\n' for kind in "XYX"))
    splits = load_splits("text", train_file=path, validation_file=path)
    assert splits.task.label_names == ("B-X", "B-Y", "O") and splits.train["words"] == [["a", "b"]] * 3
    assert rows_of(splits.train, "tags") == [[2, 0], [2, 1], [2, 0]]


def test_columns_that_are_named_and_rows_that_are_held_out(write: Write) -> None:
    words = [[f"w{i}", "x"] for i in range(40)]
    path = write("t.parquet", tokens=words, pos_tags=[[i % 2, 1] for i in range(40)], ner_tags=[["O", "O"]] * 40)
    splits = load_splits("text", train_file=path, label_column="pos_tags", validation_fraction=0.3)
    assert splits.task.label_names == ("0", "1") and splits.task.metrics == ("accuracy", "f1_macro")
    assert len(splits.train) + len(splits.validation) == 40
    for table in (splits.train, splits.validation):
        assert rows_of(table, "pos_tags") == [[int(row[0][1:]) % 2, 1] for row in table["tokens"]]


@pytest.mark.parametrize(
    "about", [{"_type": "Sequence"}, {"_type": "List", "length": -1}], ids=["as it was", "as it is"]
)
def test_names_of_numbers_are_read_from_the_file(tmp_path: Path, about: dict[str, Any]) -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    features = {"ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, **about}}
    table = pa.table({"tokens": WORDS, "ner_tags": [[3, 2, 0, 0], [], [0, 1]]})
    described = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(described, tmp_path / "t.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "plain.parquet")
    splits = load_splits("text", train_file=tmp_path / "t.parquet", validation_file=tmp_path / "t.parquet")
    assert splits.task.label_names == tuple(names)  # in their own order, also those that no word has
    assert rows_of(splits.validation, "ner_tags") == [[3, 2, 0, 0], [], [0, 1]]
    plain = load_splits("text", train_file=tmp_path / "plain.parquet", validation_file=tmp_path / "plain.parquet")
    assert plain.task.label_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        (WORDS, [["B", "I", "O"], [], ["O", "O"]], r"a label for each word of 'tokens', got 3 for 4 in row 0"),
        (WORDS, [["B", "I", "O", "O"], ["O"], ["O", "O"]], r"got 1 for 0 in row 1 \(counted from 0\)"),
        (WORDS, ["B", "O", "O"], "'ner_tags' must hold lists of labels, .* one a word .*, got string"),
        (WORDS, [["B", None, "O", "O"], [], ["O", "O"]], "a label that is null, got None in row 0"),
        (WORDS, [["O"] * 4, [], ["O"] * 2], "at least 2 classes, all its labels are 'O'"),
        ([["new", None, "is", "x"], [], ["a", "b"]], TAGS, "'tokens' must hold words, got null in row 0"),
        ([[1, 2, 3, 4], [], [5, 6]], TAGS, "'tokens' must hold lists of words .*, got list<.*int64>"),
        ([["new", "york", "is", "deep"], None, ["the", "cat"]], TAGS, "'tokens' must not be empty, but row 1"),
    ],
)
def test_what_is_wrong_is_named(write: Write, words: Any, labels: Any, message: str) -> None:
    path = write("t.parquet", tokens=words, ner_tags=labels)
    with pytest.raises(UserError, match=message):
        load_splits("text", train_file=path, validation_file=path)


def test_labels_that_training_did_not_have_and_plain_texts_are_refused(write: Write) -> None:
    path, other = write("t.parquet", tokens=WORDS, tags=TAGS), write("u.parquet", tokens=[["a"]], tags=[["B-NEW"]])
    with pytest.raises(UserError, match="of the classes B, I, O, got 'B-NEW' in row 0"):
        load_splits("text", train_file=path, validation_file=other)
    plain = write("v.parquet", text=["new york", "cat"], label=["a", "b"])
    with pytest.raises(UserError, match="'label' must hold lists of labels, .* one a word"):
        load_splits("text", train_file=plain, validation_file=plain, task_kind="token_classification")
    none = write(
        "n.parquet", tokens=pa.array([[], []], pa.list_(pa.string())), tags=pa.array([[], []], pa.list_(pa.string()))
    )
    with pytest.raises(UserError, match="it has no label"):
        load_splits("text", train_file=none, validation_file=none)
    with pytest.raises(UserError, match="column 'tokens' has no words"):
        load_splits("text", train_file=path, validation_file=none)


class TestTokens:
    @pytest.fixture
    def task(self) -> Task:
        return with_kind(
            Task(name="t", kind="auto", text_column="tokens", label_column="tags", label_names=("a", "b", "O")),
            "token_classification",
        )

    def labelled(self, words: list[list[str]], write: Write, task: Task, tokenizer: Any, length: int = 32) -> Any:
        labels = [["ab"[i % 2] for i in range(len(row))] for row in words]
        path = write("t.parquet", tokens=words, tags=labels)
        table = load_validation("text", label_names=("a", "b", "O"), validation_file=path).validation
        return tokenize(table, task, tokenizer, max_length=length)

    def test_the_first_token_of_a_word_has_its_label(self, write: Write, task: Task, any_tokenizer: Any) -> None:
        words = [["New", "York's", "deep-river", "mat."], ["cat"], ["a", "", "zzz", "O'k"]]
        split = self.labelled(words, write, task, any_tokenizer)
        assert split.token_labels is not None and split.labels is None and split.cut == 0
        assert (split.token_labels.lengths == split.lengths).all()
        for row, ids, labels in zip(words, split.input_ids, split.token_labels, strict=True):
            first = [i for i, label in enumerate(labels) if label >= 0]
            read = [i for i, word in enumerate(row) if word]
            assert labels[first].tolist() == [i % 2 for i in read]
            # from one such token to the next are the word's own, as the tokenizer cuts it
            ends = [*first[1:], len(ids) - any_tokenizer.num_special_tokens_to_add() // 2]
            for word, begin, end in zip(read, first, ends, strict=True):
                assert (
                    "".join(any_tokenizer.decode(ids[begin:end]).replace("##", "").replace("Ġ", " ").lower().split())
                    == row[word].lower()
                )

    def test_words_behind_the_cut_have_none(self, write: Write, task: Task, any_tokenizer: Any) -> None:
        split = self.labelled([["cat"] * 30, ["cat"]], write, task, any_tokenizer, length=10)
        assert split.cut == 1 and split.lengths.max() == 10
        assert (split.token_labels[0] >= 0).sum() < 30 and (split.token_labels[1] >= 0).sum() == 1
