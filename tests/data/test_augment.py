"""Versions of rows: what is replaced and by what, for every kind of tokenizer; what stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

from cofi.data import TokenizedSplit, collate
from cofi.data.augment import (
    Candidates,
    MaskedModel,
    Questions,
    candidates,
    draw_places,
    find_words,
    in_editions,
    load_masked_model,
    masked,
    nearest_words,
    replaced,
)
from cofi.data.split import Passages, Ragged
from cofi.errors import UserError
from tests.models.tiny import HF_SIZES, edit_config, edit_weights

SPECIAL = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]", "sep_token": "[SEP]"}


def tokenizer_of(tokens: list[str]) -> Any:
    """A tokenizer with this vocabulary, after the special tokens."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL.values(), *tokens])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


# tokens, those that are words, a row, and the words of the row that may be replaced
WORDPIECES = ["play", "##ing", "cat", "ein", "über", "7", "don", "'", ".", "b2", "[unused1]", "state-of", "हिंदी", "##"]
BYTES = ["Ġplay", "ing", "Ġcat", "Ġein", "ĠÃ¼ber", "Ġ7", "Ġdon", "'t", ".", "Ġb2", "cat", "Ġ", "Ġthe", "Ċ", "ĠÃ", "Ģ"]
PIECES = ["▁play", "ing", "▁cat", "▁ein", "▁über", "▁7", "▁don", "'", ".", "▁b2", "cat", "▁", "▁हिंदी", "…"]
KINDS = {
    "wordpieces": (
        WORDPIECES,
        ["play", "cat", "ein", "über", "don", "हिंदी"],
        ["play", "##ing", "cat", ".", "[SEP]", "7", "don", "'", "über", "[UNK]", "play", "[SEP]"],
        [2, 6, 8, 10],
    ),
    "byte-level BPE": (
        BYTES,
        ["Ġplay", "Ġcat", "Ġein", "ĠÃ¼ber", "Ġdon", "Ġthe"],
        ["cat", "Ġplay", "ing", "Ġcat", ".", "Ġdon", "'t", "ĠÃ¼ber", "Ģ", "Ġthe", "Ċ", "Ġ7", "Ġein", "[SEP]"],
        [3, 5, 9, 12],
    ),
    "SentencePiece": (
        PIECES,
        ["▁play", "▁cat", "▁ein", "▁über", "▁don", "▁हिंदी"],
        ["cat", "▁play", "ing", "▁cat", "…", "▁über", ".", "▁don", "'", "▁7", "▁हिंदी", "cat", "▁ein", "[SEP]"],
        [3, 5, 7, 12],
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_whole_words_of_each_kind_of_tokenizer(name: str) -> None:
    tokens, want, row, places = KINDS[name]
    tokenizer = tokenizer_of(tokens)
    words = find_words(tokenizer, 1000)
    assert words.kind == name
    assert tokenizer.convert_ids_to_tokens(words.ids) == want
    ids = Ragged.of([tokenizer.convert_tokens_to_ids(row)], np.int32)
    assert words.places(ids).tolist() == places


def test_a_row_does_not_go_on_in_the_next() -> None:
    words = find_words(tokenizer_of(WORDPIECES), 1000)
    play, ing = len(SPECIAL), len(SPECIAL) + 1
    assert words.places(Ragged.of([[play], [ing, play], [ing]], np.int32)).tolist() == [0, 2]


def test_tokens_that_a_model_does_not_know_are_no_words() -> None:
    tokenizer = tokenizer_of(WORDPIECES)
    assert tokenizer.convert_ids_to_tokens(find_words(tokenizer, len(SPECIAL) + 4).ids) == ["play", "cat", "ein"]


def test_added_tokens_are_no_words() -> None:
    tokenizer = tokenizer_of(WORDPIECES)
    tokenizer.add_tokens(["domain"])
    assert "domain" in tokenizer.get_vocab()
    assert "domain" not in tokenizer.convert_ids_to_tokens(find_words(tokenizer, 1000).ids)


@pytest.mark.parametrize("tokens", [["cat", "dog", "cat</w>"], ["##", "cat"], ["##s", "7", "cat"]], ids=str)
def test_a_vocabulary_that_cannot_be_used(tokens: list[str]) -> None:
    with pytest.raises(UserError, match="--augment needs a"):
        find_words(tokenizer_of(tokens), 1000)


@pytest.mark.parametrize("text", ["the cat sat on york, the dog-mat zzz."])
def test_real_tokenizers_give_words_of_the_text(any_tokenizer: Any, text: str) -> None:
    words = find_words(any_tokenizer, len(any_tokenizer))
    ids = Ragged.of([any_tokenizer(text)["input_ids"]], np.int32)
    found = [any_tokenizer.convert_ids_to_tokens([t])[0].removeprefix("Ġ") for t in ids.values[words.places(ids)]]
    assert {"cat", "sat", "on", "york"} <= set(found) <= set(text.replace(",", "").replace("-", " ").split())


def test_minilm_knows_some_22_000_words(minilm_tokenizer: Any) -> None:
    words = find_words(minilm_tokenizer, 30522)
    assert words.kind == "wordpieces" and 20_000 < len(words.ids) < 24_000


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24], ids=["row by row", "uneven", "at once"])
def test_neighbours_are_those_of_a_brute_force(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    draw = np.random.default_rng(0)
    table = draw.normal(size=(60, 5)) * draw.uniform(0.1, 9, size=(60, 1))  # lengths must not matter
    words, asked = np.arange(2, 60, 2), np.array([4, 10, 58])
    monkeypatch.setattr(candidates, "CHUNK_NUMBERS", chunk * len(words))
    got = nearest_words(torch.tensor(table, dtype=torch.float32), words, asked, 6)
    assert got.keys.tolist() == [4, 10, 58] and got.table.dtype == np.int32
    for word, row in zip(asked, got.table, strict=True):
        cosine = {w: table[word] @ table[w] / np.linalg.norm(table[word]) / np.linalg.norm(table[w]) for w in words}
        del cosine[word]
        assert row.tolist() == sorted(cosine, key=lambda w: -cosine[w])[:6]  # noqa: B023


def test_few_words_have_few_neighbours() -> None:
    got = nearest_words(torch.eye(4), np.array([1, 3]), np.array([3]))
    assert got.table.tolist() == [[1]]


def split_of(lengths: list[int], words: int = 30) -> TokenizedSplit:
    draw = np.random.default_rng(0)
    ids = Ragged.of([draw.integers(5, words, n) for n in lengths], np.int32)
    types = Ragged.of([draw.integers(0, 2, n) for n in lengths], np.int8)
    return TokenizedSplit(ids, types, labels=np.arange(len(lengths)))


@pytest.fixture
def neighbours() -> Candidates:
    """Of the words 5 to 29, the next three numbers."""
    words = np.arange(5, 30)
    return Candidates(words, np.stack([(words - 5 + k) % 25 + 5 for k in (1, 2, 3)], axis=1).astype(np.int32))


def test_only_places_are_replaced_and_only_by_candidates(neighbours: Candidates) -> None:
    split = split_of([700, 300])
    places = np.flatnonzero(split.input_ids.values % 3 == 0)
    versions = replaced(split.input_ids, draw_places(places, 4, 0.4, 3, seed=9), neighbours)
    assert versions.shape == (5, 1000) and versions.dtype == np.int32
    assert np.array_equal(versions[0], split.input_ids.values)
    steps = (versions - versions[0]) % 25
    assert set(np.flatnonzero(steps.any(0))) <= set(places)
    assert set(np.unique(steps)) == {0, 1, 2, 3}
    for version in steps[1:]:
        assert 0.3 < (version[places] > 0).mean() < 0.5  # 330 places: four deviations are 0.11
    assert len({version.tobytes() for version in versions}) == 5


def test_every_place_where_that_is_certain(neighbours: Candidates) -> None:
    split = split_of([40])
    versions = replaced(split.input_ids, draw_places(np.arange(40), 1, 1.0, 3, seed=0), neighbours)
    assert (versions[1] != versions[0]).all()


def test_draws_are_those_of_the_seed() -> None:
    def drawn(seed: int, versions: int) -> list[tuple[list[int], list[int]]]:
        return [(p.tolist(), k.tolist()) for p, k in draw_places(np.arange(50), versions, 0.4, 15, seed)]

    assert drawn(3, 2) == drawn(3, 2) != drawn(4, 2)
    assert drawn(3, 5)[:2] == drawn(3, 2)
    first = ([0, 2, 6, 11, 12], [4, 11, 6])  # fixed for ever: a run that is continued must see the same rows
    assert (drawn(3, 1)[0][0][:5], drawn(3, 1)[0][1][:3]) == first


def test_editions_hold_every_row_once_and_go_through_the_versions() -> None:
    split = split_of([3, 1, 4, 2, 5])
    versions = np.stack([split.input_ids.values + 100 * version for version in range(3)]).astype(np.int32)
    editions = in_editions(split, versions)
    assert (editions.count, editions.n_rows, len(editions.split)) == (3, 5, 15)
    assert editions.lengths.tolist() == split.lengths.tolist()
    for epoch in range(7):
        rows = editions.rows(epoch, range(5))
        shown = [int(editions.split.input_ids[row][0] // 100) for row in rows]
        assert shown == [(epoch + row) % 3 for row in range(5)]
        for row, there in enumerate(rows):
            assert (editions.split.input_ids[there] % 100).tolist() == split.input_ids[row].tolist()
            assert editions.split.token_type_ids[there].tolist() == split.token_type_ids[row].tolist()
            assert editions.split.labels is not None and editions.split.labels[there] == row
    assert collate(editions.split, editions.rows(1, [4, 1])).labels["labels"].tolist() == [4, 1]
    labels = np.eye(5, 2, dtype=np.float32)  # several of a row
    several = in_editions(replace(split, labels=labels), versions)
    assert collate(several.split, editions.rows(1, [4, 1])).labels["labels"].tolist() == labels[[4, 1]].tolist()


def test_answer_spans_stay() -> None:
    plain = split_of([4, 6])
    passages = Passages(np.arange(2), ["a", "b"], ["", ""], [[""], [""]], plain.input_ids, plain.input_ids)
    spans = {"start_positions": np.array([1, 0]), "end_positions": np.array([3, 5])}
    split = TokenizedSplit(plain.input_ids, plain.token_type_ids, passages=passages, **spans)
    editions = in_editions(split, np.stack([plain.input_ids.values] * 2))
    batch = collate(editions.split, editions.rows(1, [1, 0]))
    assert batch.labels["start_positions"].tolist() == [0, 1] and batch.labels["end_positions"].tolist() == [5, 3]
    assert editions.split.passages is None and editions.split.labels is None


FAMILIES = ["bert", "roberta", "xlm-roberta", "distilbert", "electra"]
VOCABULARY = [*WORDPIECES, *(chr(97 + i // 26) + chr(97 + i % 26) for i in range(97 - len(SPECIAL) - len(WORDPIECES)))]


def masked_directory(folder: Path, model_type: str = "bert", **changes: Any) -> Any:
    """A masked language model of random weights with its tokenizer of 97 tokens; returns transformers' own."""
    torch.manual_seed(1)
    sizes = {**HF_SIZES[model_type], "pad_token_id": 1, "initializer_range": 0.5, **changes}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_type, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer_of(VOCABULARY).save_pretrained(folder)
    return model


def best_words(model: Any, split: TokenizedSplit, place: int, words: np.ndarray, count: int) -> list[int]:
    """One sequence at a time, without padding."""
    row = int(np.searchsorted(split.input_ids.starts, place, side="right") - 1)
    column = place - int(split.input_ids.starts[row])
    ids, types = (torch.tensor(part[row][None].astype(np.int64)) for part in (split.input_ids, split.token_type_ids))
    there = int(ids[0, column])
    ids[0, column] = 2
    has_types = getattr(model.config, "type_vocab_size", 0) > 0
    with torch.no_grad():
        logits = model(input_ids=ids, **({"token_type_ids": types} if has_types else {})).logits[0, column]
    return sorted((int(w) for w in words if w != there), key=lambda w: -float(logits[w]))[:count]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_masked_model_is_asked_for_each_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    want_from = masked_directory(tmp_path, model_type)
    tokenizer = tokenizer_of(VOCABULARY)
    words = find_words(tokenizer, 97)
    plain = split_of([5, 9, 3, 12], 97)
    zeros = Ragged(0 * plain.token_type_ids.values, plain.token_type_ids.starts)  # XLM-R has one type alone
    split = plain if model_type != "xlm-roberta" else TokenizedSplit(plain.input_ids, zeros)
    monkeypatch.setattr(masked, "BATCH_TOKENS", 30)
    places = words.places(split.input_ids)
    questions = Questions(split, places, words.ids, 4)
    assert len(questions.batches) > 3 and len(places) > 15
    model = load_masked_model(tmp_path, tokenizer, 12)
    got = questions.collect([questions.ask(model, batch) for batch in questions.batches])
    assert got.by_place and got.table.dtype == np.int32
    for place, row in zip(places, got.table, strict=True):
        assert row.tolist() == best_words(want_from, split, int(place), words.ids, 4)
    picks = np.zeros(2, dtype=np.int64)
    assert got.take(split.input_ids, places[[1, 4]], picks).tolist() == got.table[[1, 4], 0].tolist()


def test_a_checkpoint_that_keeps_tied_weights_once_and_a_pooler(tmp_path: Path) -> None:
    """bert-base-uncased has a pooler and a next-sentence head, and of the decoder nothing but its bias."""
    masked_directory(tmp_path)

    def as_of_old(weights: dict[str, torch.Tensor]) -> None:
        weights.pop("cls.predictions.decoder.weight", None)
        weights.pop("cls.predictions.decoder.bias", None)
        weights |= {"bert.pooler.dense.weight": torch.ones(24, 24), "bert.pooler.dense.bias": torch.ones(24)}
        weights |= {"cls.seq_relationship.weight": torch.ones(2, 24), "cls.seq_relationship.bias": torch.ones(2)}

    edit_weights(tmp_path, as_of_old)
    assert isinstance(load_masked_model(tmp_path, tokenizer_of(VOCABULARY), 5), MaskedModel)


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        edit_weights(folder, lambda weights: [weights.pop(name) for name in names])

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("cls.predictions.transform.dense.weight"), "no trained head of a masked language model"),
        (without("bert.encoder.layer.1.output.dense.bias"), "lacks the tensor"),
        (lambda folder: edit_config(folder, model_type="gpt2"), "must be a masked language model of bert.*'gpt2'"),
        (lambda folder: edit_config(folder, vocab_size=10**6), "must have shape"),
        (lambda folder: masked_directory(folder, vocab_size=96), "knows 96 tokens, its tokenizer has 97"),
        (lambda folder: (folder / "model.safetensors").unlink(), "as safetensors"),
        (lambda folder: tokenizer_of(VOCABULARY[1:]).save_pretrained(folder), "the vocabulary of --model"),
        (lambda folder: edit_config(folder, num_labels=10**9), "num_labels"),
        (lambda folder: masked_directory(folder, max_position_embeddings=11), "has 11 positions, a row has 12 tokens"),
    ],
    ids=["no head", "torn", "other", "huge", "smaller", "pickled", "vocabulary", "labels", "too short"],
)
def test_a_masked_model_that_cannot_be_used(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    masked_directory(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=words):
        load_masked_model(tmp_path, tokenizer_of(VOCABULARY), 12)
