"""Predictions of packed, sorted batches equal those of one sequence at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cofi.data import TASKS, Predictions, Table, Task, TokenizedSplit, evaluate_model, predict, score, tokenize
from cofi.data.features import Ragged
from cofi.errors import UserError
from cofi.masks import Masks
from cofi.models import CompactConfig, CompactModel

TEXTS = ["the cat", "a dog sat on the mat", "", "who is in new york", "deep river runs", "what", "the the the the the"]
LABELS = [0, 1, 1, 0, 1, 0, 1]


def model(**fields: Any) -> CompactModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(1)
    made = CompactModel(
        CompactConfig(vocab_size=400, max_position_embeddings=64, initializer_range=0.5, **sizes, **fields)
    )
    return made.train()


@pytest.fixture
def split(tokenizer: Any, classification: Task) -> TokenizedSplit:
    return tokenize(Table({"text": TEXTS, "label": LABELS}, "made"), classification, tokenizer)


def one_by_one(network: CompactModel, split: TokenizedSplit, masks: Masks | None = None) -> list[Any]:
    network.eval()
    with torch.no_grad():
        rows = zip(split.input_ids, split.token_type_ids, strict=True)
        inputs = [[torch.from_numpy(row.astype(np.int64))[None] for row in pair] for pair in rows]
        outputs = [network(input_ids=ids, token_type_ids=types, masks=masks) for ids, types in inputs]
    network.train()
    return outputs


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_logits_come_in_the_order_of_the_rows(split: TokenizedSplit, batch_size: int, device: str) -> None:
    network = model(head="classification", num_labels=3).to(device)
    done: list[int] = []
    found = predict(network, split, batch_size=batch_size, progress=done.append)
    expected = torch.cat([output.logits for output in one_by_one(network.cpu(), split)]).numpy()
    assert found.logits is not None
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)
    assert done[-1] == len(split) and done == sorted(done)
    assert network.training, "the training mode must be put back"


def test_masks_are_applied(split: TokenizedSplit) -> None:
    network = model(head="classification", num_labels=2)
    masks = Masks(z_head=torch.tensor([[1.0, 0.0], [0.5, 1.0]]), z_int=torch.rand(2, 24))
    masked, dense = predict(network, split, masks=masks), predict(network, split)
    expected = torch.cat([output.logits for output in one_by_one(network, split, masks)]).numpy()
    assert masked.logits is not None and dense.logits is not None
    np.testing.assert_allclose(masked.logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(masked.logits - dense.logits).max() > 0.01


def test_question_answering(tokenizer: Any) -> None:
    context = "the river runs deep in new york, where the dog sat on a mat."
    answers = {"text": ["on a mat"], "answer_start": [context.index("on a mat")]}
    rows = {"id": ["1", "2"], "question": ["where is it", "who"], "context": [context, context[:31]]}
    answer_rows = [answers, {"text": ["deep"], "answer_start": [context.index("deep")]}]
    split = tokenize(Table({**rows, "answers": answer_rows}, "made"), TASKS["squad"], tokenizer, 20, 4)
    network = model(head="question_answering")
    found = predict(network, split, batch_size=2)
    assert found.start_logits is not None and found.end_logits is not None
    for window, output in enumerate(one_by_one(network, split)):
        np.testing.assert_allclose(found.start_logits[window], output.start_logits[0].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.end_logits[window], output.end_logits[0].numpy(), rtol=1e-4, atol=1e-4)
    result = evaluate_model(network, split, TASKS["squad"])
    assert result == score(TASKS["squad"], split, found)
    assert set(result.metrics) == {"exact_match", "f1"} and result.score == result.metrics["f1"]


def test_scores_by_hand(split: TokenizedSplit, classification: Task) -> None:
    logits = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 0, 0, 0]]
    result = score(classification, split, Predictions(logits=logits))
    assert result.metrics == {"accuracy": pytest.approx(5 / 7)} and result.score == pytest.approx(500 / 7)
    numbers = TokenizedSplit(split.input_ids, split.token_type_ids, labels=np.arange(7, dtype=np.float32))
    result = score(TASKS["stsb"], numbers, Predictions(logits=np.arange(7, dtype=np.float32)[:, None] * 2 - 5))
    assert result.score == pytest.approx(100.0)


def test_best_span_is_scored(tokenizer: Any) -> None:
    answers = [{"text": ["dog"], "answer_start": [4]}]
    table = Table({"id": ["1"], "question": ["who"], "context": ["the dog sat"], "answers": answers}, "made")
    split = tokenize(table, TASKS["squad"], tokenizer)
    logits = [[np.eye(1, 7, column)[0] for column in columns] for columns in ([4], [4])]
    start, end = (Ragged.of(rows, np.float32) for rows in logits)
    assert score(TASKS["squad"], split, Predictions(start_logits=start, end_logits=end)).score == 100.0


def test_split_that_does_not_fit(split: TokenizedSplit) -> None:
    small = CompactModel(CompactConfig(vocab_size=20, hidden_size=8, num_attention_heads=1, intermediate_size=8,
                                       num_hidden_layers=1, head="classification"))  # fmt: skip
    with pytest.raises(UserError, match="the model knows 20 tokens, the tokenizer made token .*another model's"):
        predict(small, split)
    long = TokenizedSplit(Ragged.of([[1] * 65], np.int32), Ragged.of([[0] * 65], np.int8))
    with pytest.raises(UserError, match="the model has 64 positions, a sequence has 65 tokens: lower --max-length"):
        predict(model(head="classification"), long)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(model(head="classification"), split, batch_size=0)
