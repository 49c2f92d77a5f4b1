"""Windows of passages: the tokens of an answer give back its text; the best span over all windows is found."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cofi.data import TASKS, Table, compute_metrics, load_splits, tokenize
from cofi.data.features import Passages, Ragged, TokenizedSplit
from cofi.data.squad import check_window, token_span
from cofi.data.squad_postprocess import MAX_ANSWER_TOKENS, best_answers, best_spans, candidates
from cofi.errors import UserError
from tests.data.conftest import byte_level

SQUAD = TASKS["squad"]
CONTEXT = "the river runs deep in new york, where the dog sat on a mat. what a cat, who is deep."


def table(question: str = " where is the dog? ", answer: str = "on a mat", context: str = CONTEXT) -> Table:
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return Table({"id": ["q1"], "question": [question], "context": [context], "answers": [answers]}, "made")


def span_text(split: TokenizedSplit, window: int) -> str:
    """What the labelled tokens of a window read."""
    assert split.passages is not None and split.start_positions is not None and split.end_positions is not None
    p = split.passages
    begin = p.begins[window][split.start_positions[window]]
    end = p.ends[window][split.end_positions[window]]
    return p.contexts[p.windows[window]][begin:end]


def test_one_window(any_tokenizer: Any) -> None:
    split = tokenize(table(), SQUAD, any_tokenizer)
    assert len(split) == split.n_examples == 1
    assert split.input_ids[0].tolist() == any_tokenizer("where is the dog?", CONTEXT)["input_ids"]
    assert span_text(split, 0) == "on a mat"


def test_overlapping_windows(any_tokenizer: Any) -> None:
    split, whole = (tokenize(table(), SQUAD, any_tokenizer, length, 6) for length in (20, 200))
    assert len(split) > 2 and len(whole) == split.n_examples == 1 and split.lengths.max() <= 20
    passages, starts = split.passages, split.start_positions
    assert passages is not None and starts is not None
    held = [window for window in range(len(split)) if starts[window] > 0]
    assert held and all(span_text(split, window) == "on a mat" for window in held)
    # together the windows hold the whole passage, and neighbours share six tokens of it
    context = [end[end >= 0] for end in passages.ends]
    assert whole.passages is not None
    assert np.array_equal(np.unique(np.concatenate(context)), np.unique(whole.passages.ends.values)[1:])
    assert all(np.array_equal(left[-6:], right[:6]) for left, right in zip(context, context[1:], strict=False))


def test_answer_outside_the_window_points_at_the_first_token(tokenizer: Any) -> None:
    split = tokenize(table(answer="the river runs deep"), SQUAD, tokenizer, max_length=24, doc_stride=6)
    assert split.start_positions is not None and split.end_positions is not None
    assert span_text(split, 0) == "the river runs deep"
    assert split.start_positions[1:].tolist() == split.end_positions[1:].tolist() == [0] * (len(split) - 1)


def test_answer_that_is_part_of_a_token() -> None:
    # tokens of "1817 was": the answer "7" has no token of its own
    begin, end = np.array([-1, 0, 5, -1], np.int32), np.array([-1, 4, 8, -1], np.int32)
    assert token_span(begin, end, 3, 4) == (1, 1)
    assert token_span(begin, end, 0, 8) == (1, 2)
    assert token_span(begin, end, 5, 9) == (0, 0)
    assert token_span(begin[[0, 3]], end[[0, 3]], 0, 1) == (0, 0)


def test_long_question_is_cut(tokenizer: Any) -> None:
    split = tokenize(table(question="where is the dog " * 40), SQUAD, tokenizer)
    assert int((split.token_type_ids[0] == 0).sum()) == 64 + 2
    assert span_text(split, 0) == "on a mat"


def test_a_question_of_few_letters_may_have_many_tokens() -> None:
    """Of bytes: three for each of these."""
    split = tokenize(table(question="\u732b" * 50), SQUAD, byte_level(), max_length=256, doc_stride=64)
    assert len(split.input_ids[0]) <= 256 and span_text(split, 0) == "on a mat"
    question = split.input_ids[0].tolist().index(2)  # the first separator
    assert question - 1 == 63  # 21 letters: the next one would need two more


def test_long_question_is_cut_without_a_warning(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of transformers, that the model would fail on a sequence it never gets."""
    monkeypatch.setattr(tokenizer, "model_max_length", 128)
    monkeypatch.setattr(tokenizer, "deprecation_warnings", {})  # it warns once only
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [handler])
    tokenize(table(question="where is the dog " * 40), SQUAD, tokenizer)
    assert not said, said[0].getMessage()


@pytest.mark.parametrize(("max_length", "stride"), [(128, 63), (24, 11), (24, -1), (4, 0), (3, 0)])
def test_windows_that_cannot_advance(tokenizer: Any, max_length: int, stride: int) -> None:
    with pytest.raises(UserError, match=rf"doc_stride must be in \[0, .*max_length {max_length} .*got {stride}"):
        tokenize(table(), SQUAD, tokenizer, max_length=max_length, doc_stride=stride)


def test_windows_share_128_tokens_or_half_a_window() -> None:
    assert [check_window(length, None, 3)[1] for length in (384, 256, 128, 32, 6)] == [128, 128, 31, 7, 1]


def test_smallest_window_advances(tokenizer: Any) -> None:
    assert check_window(6, 1, 3) == (1, 1)
    split = tokenize(table(context="the cat sat", answer="cat"), SQUAD, tokenizer, max_length=6, doc_stride=1)
    assert [ids.tolist()[3:-1] for ids in split.input_ids] == [
        tokenizer.convert_tokens_to_ids(pair) for pair in (["the", "cat"], ["cat", "sat"])
    ]


def test_real_answers_are_recovered(data_dir: Path, minilm_tokenizer: Any) -> None:
    splits = load_splits("squad", data_dir=data_dir, max_train_samples=400, max_eval_samples=1)
    split = tokenize(splits.train, splits.task, minilm_tokenizer)
    passages, starts = split.passages, split.start_positions
    assert passages is not None and starts is not None
    read = [(span_text(split, w), passages.answers[passages.windows[w]][0]) for w in range(len(split)) if starts[w] > 0]
    assert len(read) >= 400
    # a few answers are part of a word ("six" of "sixth") and cannot be met exactly
    assert all(answer in text for text, answer in read)
    assert sum(text == answer for text, answer in read) >= 0.99 * len(read)


def one_hot(split: TokenizedSplit, columns: np.ndarray | None) -> Ragged:
    assert columns is not None
    return Ragged.of([np.eye(1, n, c)[0] for n, c in zip(split.lengths, columns, strict=True)], np.float32)


def test_real_answers_win(data_dir: Path, minilm_tokenizer: Any) -> None:
    splits = load_splits("squad", data_dir=data_dir, max_train_samples=1, max_eval_samples=300)
    split = tokenize(splits.validation, splits.task, minilm_tokenizer, max_length=128, doc_stride=40)
    assert split.passages is not None and len(split) > 450
    answers = best_answers(split.passages, one_hot(split, split.start_positions), one_hot(split, split.end_positions))
    scores = compute_metrics(SQUAD, answers, split.passages.answers)
    # as above: an answer inside a word comes back as the word
    assert all(
        any(text in found for text in accepted) for found, accepted in zip(answers, split.passages.answers, strict=True)
    )
    assert scores["exact_match"] > 97 and scores["f1"] > 97


def brute_force(start: np.ndarray, end: np.ndarray, width: int) -> list[tuple[float, int, int]]:
    n = len(start)
    spans = [(start[i] + end[j], i, j) for i in range(n) for j in range(i, min(n, i + width))]
    return sorted(spans, key=lambda span: (-span[0], span[1], span[2]))


@pytest.mark.parametrize(("n", "width", "n_best"), [(1, 30, 20), (7, 3, 4), (40, 30, 20), (40, 1, 50), (5, 5, 99)])
def test_best_spans_against_all_spans(n: int, width: int, n_best: int) -> None:
    random = np.random.default_rng(n)
    start, end = random.integers(0, 9, (2, n)).astype(np.float32)  # with many equal scores
    found = best_spans(start, end, width, n_best)
    expected = brute_force(start, end, width)[:n_best]
    assert [score for _, _, score in found] == [score for score, _, _ in expected]
    assert all(first <= last < first + width for first, last, _ in found)
    assert found[0][:2] == expected[0][1:]


def test_spans_of_nothing() -> None:
    assert best_spans(np.empty(0), np.empty(0), MAX_ANSWER_TOKENS, 20) == []


def passages(contexts: list[str], windows: list[int], offsets: list[list[tuple[int, int]]]) -> Passages:
    return Passages(
        windows=np.array(windows),
        ids=[str(i) for i in range(len(contexts))],
        contexts=contexts,
        answers=[["-"] for _ in contexts],
        begins=Ragged.of([[begin for begin, _ in row] for row in offsets], np.int32),
        ends=Ragged.of([[end for _, end in row] for row in offsets], np.int32),
    )


NO = (-1, -1)


def test_best_window_wins_and_special_tokens_never_do() -> None:
    # "new york city": windows [cls] new york / [cls] york city; an empty passage for the second example
    p = passages(["new york city", ""], [0, 0, 1], [[NO, (0, 3), (4, 8)], [NO, (4, 8), (9, 13)], [NO, NO]])
    start = Ragged.of([[9, 1, 0], [9, 2, 0], [5, 5]], np.float32)
    end = Ragged.of([[9, 0, 1], [9, 0, 3], [5, 5]], np.float32)
    assert best_answers(p, start, end) == ["york city", ""]
    options = candidates(p, start, end)[0]
    assert [(option.text, option.score) for option in options] == [
        ("york city", 5.0),
        ("city", 3.0),
        ("new york", 2.0),
        ("york", 2.0),
        ("new", 1.0),
    ]


def test_answers_have_no_blanks_around_them() -> None:
    # byte-level tokenizers give the first token of a window the blank before it
    p = passages(["new york"], [0], [[NO, (3, 8)]])
    logits = Ragged.of([[0, 1]], np.float32)
    assert best_answers(p, logits, logits) == ["york"]


def test_long_answers_are_not_valid() -> None:
    n = 40
    p = passages(["x" * n], [0], [[(i, i + 1) for i in range(n)]])
    start, end = np.zeros((1, n), np.float32), np.zeros((1, n), np.float32)
    start[0, 0], end[0, 35], end[0, 29] = 5, 5, 1
    assert best_answers(p, Ragged.of(start, np.float32), Ragged.of(end, np.float32)) == ["x" * 30]
