"""Labels of words: from lists in a file to the label at the first token of each word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import processors

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
    empty = pa.array([[], []], pa.list_(pa.string()))
    none = write("n.parquet", tokens=empty, tags=empty)
    with pytest.raises(UserError, match="it has no label"):
        load_splits("text", train_file=none, validation_file=none)


def described(path: Path, names: Any, **columns: Any) -> Path:
    """A file as the package datasets writes it, with names for the integers of ner_tags."""
    features = {"ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(pa.table(columns).replace_schema_metadata(about), path)
    return path


def test_integers_are_the_names_of_their_own_file(tmp_path: Path, write: Write) -> None:
    one = described(tmp_path / "a.parquet", ["O", "B-X", "I-X"], tokens=[["a", "b", "c"]], ner_tags=[[1, 2, 0]])
    other = described(tmp_path / "b.parquet", ["I-X", "O", "B-X"], tokens=[["a", "b", "c"]], ner_tags=[[2, 0, 1]])
    words = write("c.parquet", tokens=[["a", "b", "c"]], ner_tags=[["B-X", "I-X", "O"]])
    for train, validation in ((one, other), (words, one), (other, words), (one, one)):
        splits = load_splits("text", train_file=train, validation_file=validation)
        names = splits.task.label_names
        said = [[names[i] for i in rows_of(table, "ner_tags")[0]] for table in (splits.train, splits.validation)]
        assert said == [["B-X", "I-X", "O"]] * 2 and splits.task.main_metric == "f1"
    again = load_validation("text", label_names=("B-X", "I-X", "O"), validation_file=other)
    assert rows_of(again.validation, "ner_tags") == [[0, 1, 2]]
    # a model that numbers its labels has those of the file, and is scored by them
    numbered = load_validation("text", label_names=("LABEL_0", "LABEL_1", "LABEL_2"), validation_file=other)
    assert numbered.task.label_names == ("I-X", "O", "B-X") and numbered.task.main_metric == "f1"
    assert rows_of(numbered.validation, "ner_tags") == [[2, 0, 1]]
    beyond = described(tmp_path / "d.parquet", ["O", "B-X"], tokens=[["a"]], ner_tags=[[2]])
    with pytest.raises(UserError, match="must have labels from 0 to 1, got 2 in row 0"):
        load_splits("text", train_file=beyond, validation_file=beyond)


@pytest.mark.parametrize(
    "names",
    [["O"], ["O", "O"], ["O", ""], ["O", 1], "OB", {"O": 1}, ["O", "\ud800"], [str(i) + "x" for i in range(1001)]],
    ids=["one", "twice", "empty", "number", "text", "mapping", "half a letter", "too many"],
)
def test_names_that_could_not_be_used_are_none(tmp_path: Path, names: Any) -> None:
    path = described(tmp_path / "t.parquet", names, tokens=[["a", "b"]], ner_tags=[[0, 1]])
    assert load_splits("text", train_file=path, validation_file=path).task.label_names == ("0", "1")


def test_names_nested_deeper_than_python_reads_are_none(tmp_path: Path) -> None:
    table = pa.table({"tokens": [["a", "b"]], "ner_tags": [[0, 1]]})
    deep = {"huggingface": "[" * 100_000 + "]" * 100_000}
    pyarrow.parquet.write_table(table.replace_schema_metadata(deep), tmp_path / "t.parquet")
    splits = load_splits("text", train_file=tmp_path / "t.parquet", validation_file=tmp_path / "t.parquet")
    assert splits.task.label_names == ("0", "1")


def test_columns_are_looked_for_where_nobody_names_them(write: Write) -> None:
    path = write("t.parquet", text=["a b", "c"], tokens=[["a", "b"], ["c"]], tags=[["O", "X"], ["O"]])
    splits = load_splits("text", train_file=path, validation_file=path, text_column="tokens")
    assert splits.task.label_column == "tags" and splits.task.label_names == ("O", "X")
    for wrong, message in (("tgs", "has no column 'tgs'"), ("tags,other", "'tags' must hold 0 and 1")):
        with pytest.raises(UserError, match=message):
            load_splits("text", train_file=path, validation_file=path, text_column="tokens", label_column=wrong)
    with pytest.raises(UserError, match="--pair-column text has no place where words have labels"):
        load_splits("text", train_file=path, validation_fraction=0.5, text_column="tokens", pair_column="text")
    texts = load_splits("text", train_file=path, validation_file=path, text_column="tokens", task_kind="embedding")
    assert texts.train["tokens"] == ["a b", "c"]


def test_a_label_below_zero_is_none(write: Write) -> None:
    path = write("t.parquet", tokens=[["a", "b"], ["c"]], tags=[[0, 1], [-100]])
    with pytest.raises(UserError, match="must have labels from 0 on, got -100 in row 1"):
        load_splits("text", train_file=path, validation_file=path)


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

    def test_rows_without_a_token_are_refused(self, write: Write, task: Task, any_tokenizer: Any) -> None:
        with pytest.raises(UserError, match="'tokens' must hold words, none has a token"):
            self.labelled([[" ", ""], [""]], write, task, any_tokenizer)
        bare = any_tokenizer.__class__(
            tokenizer_object=any_tokenizer.backend_tokenizer, unk_token=any_tokenizer.unk_token
        )
        bare.backend_tokenizer.post_processor = processors.Sequence([])
        with pytest.raises(UserError, match="the text of row 1 .* has no tokens"):
            self.labelled([["cat"], []], write, task, bare)
