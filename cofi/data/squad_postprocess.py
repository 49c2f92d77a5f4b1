"""From start and end logits to answers: the best valid span over all windows of an example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cofi.data.split import Passages, Ragged

N_BEST = 20
MAX_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class Candidate:
    """A span of the passage and its score, the sum of both logits."""

    text: str
    score: float


def best_spans(
    start_logits: NDArray[np.floating], end_logits: NDArray[np.floating], max_answer_tokens: int, n_best: int
) -> list[tuple[int, int, float]]:
    """The n_best spans (first token, last token, score), best first, of at most max_answer_tokens tokens.

    start_logits, end_logits: (S,). Every span is looked at, not only those of the n_best starts and ends, so the best
    one cannot be missed. Equal scores: the earlier start, then the shorter span.
    """
    n_tokens = len(start_logits)
    width = min(max_answer_tokens, n_tokens)
    if width < 1:
        return []
    padded = np.concatenate([end_logits, np.full(width - 1, -np.inf, dtype=end_logits.dtype)])
    # scores[i, d]: from token i to token i + d
    scores = start_logits[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)
    flat = scores.ravel()
    count = min(n_best, flat.size)
    top = np.argpartition(-flat, count - 1)[:count] if count < flat.size else np.arange(flat.size)
    order = top[np.lexsort((top, -flat[top]))]
    return [(int(i // width), int(i // width + i % width), float(flat[i])) for i in order if flat[i] > -np.inf]


def candidates(
    passages: Passages,
    start_logits: Ragged,
    end_logits: Ragged,
    *,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    n_best: int = N_BEST,
) -> list[list[Candidate]]:
    """For every example its n_best answers, best first, each text once. Logits: one row a window, of its length."""
    found: list[list[Candidate]] = [[] for _ in passages.ids]
    for window, example in enumerate(passages.windows):
        begins, ends = passages.begins[window], passages.ends[window]
        context = np.flatnonzero(begins >= 0)
        # the tokens of the passage are consecutive, so spans of this slice are spans of the passage
        spans = best_spans(start_logits[window][context], end_logits[window][context], max_answer_tokens, n_best)
        text = passages.contexts[example]
        for first, last, score in spans:
            answer = text[begins[context[first]] : ends[context[last]]].strip()
            found[example].append(Candidate(answer, score))
    return [_distinct(options, n_best) for options in found]


def _distinct(options: list[Candidate], n_best: int) -> list[Candidate]:
    best: dict[str, Candidate] = {}
    for option in sorted(options, key=lambda candidate: -candidate.score):
        best.setdefault(option.text, option)
    return list(best.values())[:n_best]


def best_answers(passages: Passages, start_logits: Ragged, end_logits: Ragged) -> list[str]:
    """The best answer to every example; "" where the passage has no tokens."""
    options = candidates(passages, start_logits, end_logits, n_best=1)
    return [found[0].text if found else "" for found in options]
