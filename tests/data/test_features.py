"""Token sequences of single texts and pairs, and tokenizers that cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from cofi.data import Table, Task, load_splits, load_tokenizer, tokenize
from cofi.data.split import Ragged, TokenizedSplit
from cofi.errors import UserError


def table(n: int = 3, **columns: list[Any]) -> Table:
    texts = ["the cat", "a dog sat on the mat", ""][:n]
    return Table({"text": texts, **columns}, "made.csv")


def test_single_texts(any_tokenizer: Any, classification: Task) -> None:
    split = tokenize(table(label=[1, 0, 1]), classification, any_tokenizer)
    expected = [any_tokenizer(text)["input_ids"] for text in table()["text"]]
    assert [row.tolist() for row in split.input_ids] == expected
    assert split.labels is not None and split.labels.dtype == np.int64 and split.labels.tolist() == [1, 0, 1]
    assert split.lengths.tolist() == [len(row) for row in expected]
    assert (len(split), split.n_examples) == (3, 3)


def test_pairs_are_cut_longest_first(tokenizer: Any) -> None:
    task = Task("toy", "regression", "text", "other", metrics=("mse",), main_metric="mse")
    split = tokenize(table(1, other=["the cat sat on the mat"], label=[2.5]), task, tokenizer, max_length=9)
    tokens = tokenizer.convert_ids_to_tokens(split.input_ids[0].tolist())
    assert tokens == ["[CLS]", "the", "cat", "[SEP]", "the", "cat", "sat", "on", "[SEP]"]
    assert split.token_type_ids[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert split.labels is not None and split.labels.dtype == np.float32


def test_length_and_progress(tokenizer: Any, classification: Task) -> None:
    rows = Table({"text": ["a dog sat on the mat"] * 2100, "label": [0] * 2100}, "made")
    done: list[int] = []
    split = tokenize(rows, classification, tokenizer, max_length=5, progress=done.append)
    assert set(split.lengths.tolist()) == {5} and len(split) == 2100
    assert done == [1000, 2000, 2100]
    assert split.describe_cut() == "2,100 of 2,100 texts are cut at 5 tokens (--max-length)"


def test_a_text_that_just_fits_is_not_cut(tokenizer: Any, classification: Task) -> None:
    rows = table(label=[1, 0, 1])
    longest = int(tokenize(rows, classification, tokenizer).lengths.max())
    for limit, cut in ((longest, 0), (longest - 1, 1)):
        split = tokenize(rows, classification, tokenizer, max_length=limit)
        assert split.cut == cut and (split.describe_cut() is None) is (cut == 0)


def test_texts_that_are_in_both_splits_are_told(tokenizer: Any, classification: Task) -> None:
    train, other = (
        tokenize(Table({"text": texts, "label": [0] * len(texts)}, "made"), classification, tokenizer)
        for texts in (["the cat", "a dog", "the cat sat"], ["the  CAT", "a dog sat", "the cat"])
    )
    told = "2 of 3 texts are among those to train on: scores of new texts may be lower"
    assert other.describe_overlap(train) == told
    new = Table({"text": ["a dog sat on the mat"], "label": [0]}, "made")
    assert tokenize(new, classification, tokenizer).describe_overlap(train) is None


def test_classes_without_a_row_are_told() -> None:
    ids = Ragged.of([[1], [1, 2], [3]], np.int32)
    said = "no row is of class b; a file in the order of its classes must be shuffled first"
    labels: list[Any] = [[0, 2, 2], [[1, 0, 0], [0, 0, 0], [0, 0, 1]]]
    for some in labels:
        assert TokenizedSplit(ids, ids, labels=np.asarray(some)).describe_missing(("a", "b", "c")) == said
    words = Ragged.of([[-100], [0, -100], [2]], np.int64)
    assert TokenizedSplit(ids, ids, token_labels=words).describe_missing(("a", "b", "c")) == said
    assert TokenizedSplit(ids, ids, labels=np.array([2, 1, 0])).describe_missing(("a", "b", "c")) is None
    assert TokenizedSplit(ids, ids, labels=np.array([0.5, 1, 0])).describe_missing(()) is None


def test_real_rows(data_dir: Path, minilm_tokenizer: Any) -> None:
    splits = load_splits("mrpc", data_dir=data_dir, max_train_samples=300, max_eval_samples=1)
    split = tokenize(splits.train, splits.task, minilm_tokenizer)
    for row in (0, 150, 299):
        text, pair = splits.train["sentence1"][row], splits.train["sentence2"][row]
        expected = minilm_tokenizer(text, pair, truncation=True, max_length=128)
        assert split.input_ids[row].tolist() == expected["input_ids"]
        assert split.token_type_ids[row].tolist() == expected["token_type_ids"]


@pytest.mark.parametrize("max_length", [0, 2])
def test_length_without_room(tokenizer: Any, classification: Task, max_length: int) -> None:
    with pytest.raises(
        UserError, match=f"max_length must be above the 2 special tokens of a sequence, got {max_length}"
    ):
        tokenize(table(label=[1, 0, 1]), classification, tokenizer, max_length=max_length)


def test_text_without_tokens(tokenizer: Any, classification: Task) -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer.from_str(_without_specials(tokenizer)))
    with pytest.raises(UserError, match=r"made.csv: the text of row 2 \(counted from 0\) has no tokens"):
        tokenize(table(label=[1, 0, 1]), classification, plain)


def _without_specials(tokenizer: Any) -> str:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({**content, "post_processor": None})


def test_saved_tokenizer_is_loaded(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("the cat sat")["input_ids"] == tokenizer("the cat sat")["input_ids"]


def test_tokenizers_that_cannot_be_had(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer in .*: it holds none of tokenizer.json, vocab.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such directory of a tokenizer: .*gone"):
        load_tokenizer(tmp_path / "gone")
    with pytest.raises(UserError, match="no such directory of a tokenizer: ./gone"):
        load_tokenizer("./gone")
    tokenizer.save_pretrained(tmp_path / "cut")
    path = tmp_path / "cut" / "tokenizer.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match="cannot load the tokenizer of .*cut"):
        load_tokenizer(tmp_path / "cut")


def test_code_beside_a_tokenizer_is_not_run(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}')
    with pytest.raises(UserError, match="contains custom code"):
        load_tokenizer(tmp_path)
    assert not marker.exists()


def test_ragged() -> None:
    rows = Ragged.of([[1, 2], [], [3]], np.int32)
    assert (len(rows), rows.lengths.tolist(), rows[-1].tolist()) == (3, [2, 0, 1], [3])
    assert rows.take([2, 0]).tolist() == [3, 1, 2]
    joined = Ragged.join([rows, rows])
    assert [row.tolist() for row in joined] == [[1, 2], [], [3]] * 2
    with pytest.raises(IndexError, match=r"row must be in \[-3, 3\), got 3"):
        rows[3]


def test_texts_to_embed_have_no_labels_and_no_second_text(tokenizer: Any) -> None:
    task = Task("t", "embedding", "a", "b", metrics=("spearmanr",), main_metric="spearmanr")
    split = tokenize(Table({"a": ["the cat", "a dog runs"]}, "here"), task, tokenizer, 16)
    assert split.labels is None and split.passages is None
    assert split.lengths.tolist() == [4, 5]  # with [CLS] and [SEP]
