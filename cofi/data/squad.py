"""SQuAD 1.1 (Rajpurkar et al. 2016): checked rows, and overlapping windows of passages with the answer's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cofi.data.split import Passages, Ragged, TokenizedSplit
from cofi.data.table import RawTable, Table, column, text_column
from cofi.data.task import HubSource, Task, TaskDefaults
from cofi.errors import UserError

QA_DEFAULTS = TaskDefaults(max_length=384)
SQUAD = Task(
    name="squad",
    kind="question_answering",
    text_column="question",
    pair_column="context",
    label_column="answers",
    metrics=("exact_match", "f1"),
    main_metric="f1",
    hub=HubSource("rajpurkar/squad"),
    defaults=QA_DEFAULTS,
)
MAX_QUESTION_TOKENS = 64  # as in BERT's own SQuAD script
DOC_STRIDE = 128  # as there, and half of a window where that is shorter
CHUNK_ROWS = 500


def qa_columns(raw: RawTable, task: Task) -> Table:
    """Columns id, question, passage and answers, checked. Rows without an id are numbered. Raises UserError."""
    assert task.text_column is not None and task.pair_column is not None
    questions, contexts = text_column(raw, task.text_column), text_column(raw, task.pair_column)
    answers = column(raw, task.label_column)
    names = {field.name for field in answers.type} if pa.types.is_struct(answers.type) else set()
    if not {"text", "answer_start"} <= names:
        raise UserError(
            f"{raw.source}: column {task.label_column!r} must hold structs of text and answer_start, got {answers.type}"
        )
    found = answers.to_pylist()
    for row, (context, answer) in enumerate(zip(contexts, found, strict=True)):
        problem = _problem(context, answer)
        if problem is not None:
            raise UserError(f"{raw.source}: column {task.label_column!r}, row {row} (counted from 0): {problem}")
    ids = [str(i) for i in column(raw, "id").to_pylist()] if "id" in raw.data.column_names else None
    return Table(
        {
            "id": ids or [str(row) for row in range(len(questions))],
            task.text_column: questions,
            task.pair_column: contexts,
            task.label_column: found,
        },
        raw.source,
    )


def _problem(context: str, answer: dict[str, Any]) -> str | None:
    """What is wrong with the answers of one row, or None."""
    texts, starts = answer["text"], answer["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return f"text and answer_start must be lists of one length, got {texts!r} and {starts!r}"
    if not texts:
        return "SQuAD 1.1 has an answer to every question, got none"
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int):
            return f"an answer is a text and an integer, got {text!r} and {start!r}"
        if not text or start < 0 or context[start : start + len(text)] != text:
            found = context[max(start, 0) : max(start, 0) + max(len(text), 1)]
            return f"the context must read {text!r} at answer_start {start}, it reads {found!r}"
    return None


def check_window(max_length: int, doc_stride: int | None, n_special: int) -> tuple[int, int]:
    """Tokens that a question may have, and those that windows share.

    Raises UserError where windows of the passage could not advance.
    """
    question_tokens = min(MAX_QUESTION_TOKENS, (max_length - n_special) // 2)
    room = max_length - n_special - question_tokens
    if doc_stride is None:
        doc_stride = DOC_STRIDE if room > DOC_STRIDE else room // 2
    if question_tokens < 1 or not 0 <= doc_stride < room:
        raise UserError(
            f"doc_stride must be in [0, {max(room, 0)}) with max_length {max_length} ({question_tokens} tokens are for "
            f"the question, {n_special} are special), got {doc_stride}"
        )
    return question_tokens, doc_stride


def tokenize_qa(
    table: Table,
    task: Task,
    tokenizer: Any,
    max_length: int,
    doc_stride: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> TokenizedSplit:
    """Windows of at most max_length tokens: question, then a part of the passage; neighbours share doc_stride tokens.

    tokenizer: a fast tokenizer of transformers. progress(n) is called with the number of examples done.
    """
    assert task.text_column is not None and task.pair_column is not None
    n_special = tokenizer.num_special_tokens_to_add(pair=True)
    question_tokens, doc_stride = check_window(max_length, doc_stride, n_special)
    questions = _shortened([text.strip() for text in table[task.text_column]], tokenizer, question_tokens)
    contexts, answers = table[task.pair_column], table[task.label_column]
    parts: list[_Windows] = []
    for first in range(0, len(table), CHUNK_ROWS):
        rows = slice(first, first + CHUNK_ROWS)
        encoded = tokenizer(
            questions[rows],
            contexts[rows],
            truncation="only_second",
            max_length=max_length,
            stride=doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        parts.append(_Windows.of(encoded, first, answers[rows]))
        if progress is not None:
            progress(min(first + CHUNK_ROWS, len(table)))
    return _joined(parts, table["id"], contexts, [answer["text"] for answer in answers])


def _joined(parts: list[_Windows], ids: list[str], contexts: list[str], answers: list[list[str]]) -> TokenizedSplit:
    spans = np.concatenate([part.spans for part in parts])
    passages = Passages(
        windows=np.concatenate([part.examples for part in parts]),
        ids=ids,
        contexts=contexts,
        answers=answers,
        begins=Ragged.join([part.begins for part in parts]),
        ends=Ragged.join([part.ends for part in parts]),
    )
    return TokenizedSplit(
        input_ids=Ragged.join([part.input_ids for part in parts]),
        token_type_ids=Ragged.join([part.token_type_ids for part in parts]),
        start_positions=spans[:, 0],
        end_positions=spans[:, 1],
        passages=passages,
    )


def _shortened(questions: list[str], tokenizer: Any, limit: int) -> list[str]:
    """Questions cut after `limit` tokens. One of at most that many bytes cannot have more, so it is not looked at."""
    long = [row for row, question in enumerate(questions) if len(question.encode()) > limit]
    if not long:
        return questions
    texts = [questions[row] for row in long]
    # not verbose: transformers would warn of questions longer than the model, which are cut here
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    shortened = list(questions)
    for row, offsets in zip(long, encoded["offset_mapping"], strict=True):
        if len(offsets) > limit:  # not behind the last token that stays: it may be the first byte of a letter only
            shortened[row] = questions[row][: offsets[limit][0]].rstrip()
    return shortened


class _Windows:
    """The windows of one chunk of rows, as arrays."""

    def __init__(self, encoded: Any, begins: list[NDArray[np.int32]], ends: list[NDArray[np.int32]]) -> None:
        self.input_ids = Ragged.of(encoded["input_ids"], np.int32)
        self.token_type_ids = Ragged.of(encoded["token_type_ids"], np.int8)
        self.begins = Ragged.of(begins, np.int32)
        self.ends = Ragged.of(ends, np.int32)
        self.examples = np.empty(0, dtype=np.int64)
        self.spans = np.empty((0, 2), dtype=np.int64)

    @classmethod
    def of(cls, encoded: Any, first: int, answers: Sequence[dict[str, Any]]) -> _Windows:
        rows = encoded["overflow_to_sample_mapping"]
        begins, ends, spans = [], [], []
        for window, row in enumerate(rows):
            offsets = np.asarray(encoded["offset_mapping"][window], dtype=np.int32).reshape(-1, 2)
            in_context = np.array([part == 1 for part in encoded.sequence_ids(window)])
            begin, end = np.where(in_context, offsets.T, -1)
            start = answers[row]["answer_start"][0]
            spans.append(token_span(begin, end, start, start + len(answers[row]["text"][0])))
            begins.append(begin)
            ends.append(end)
        windows = cls(encoded, begins, ends)
        windows.examples = np.asarray(rows, dtype=np.int64) + first
        windows.spans = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
        return windows


def token_span(begin: NDArray[np.int32], end: NDArray[np.int32], first: int, last: int) -> tuple[int, int]:
    """Columns of the tokens that cover the characters [first, last); (0, 0) where the window does not hold them all.

    begin, end: (S,) character offsets of the window's tokens, -1 outside the passage.
    """
    context = np.flatnonzero(begin >= 0)
    if not len(context) or begin[context[0]] > first or end[context[-1]] < last:
        return 0, 0
    # offsets only grow along a passage, so both ends are found by bisection
    left = context[np.searchsorted(begin[context], first, side="right") - 1]
    right = context[np.searchsorted(end[context], last, side="left")]
    return int(left), int(right)
