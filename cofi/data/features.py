"""Tokenizers, and tables turned into token sequences."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cofi.data.encode import encode
from cofi.data.split import Passages, Ragged, TokenizedSplit
from cofi.data.squad import tokenize_qa
from cofi.data.table import Table
from cofi.data.tagging import tokenize_words
from cofi.data.task import Task
from cofi.errors import UserError
from cofi.files import read_json
from cofi.models import CompactConfig
from cofi.models.families import FAMILIES

__all__ = ["Passages", "Ragged", "TokenizedSplit", "load_tokenizer", "tokenize"]

# a directory without any of these gives transformers an empty vocabulary instead of an error
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)


def load_tokenizer(directory: str | os.PathLike[str]) -> Any:
    """The fast tokenizer in a directory; no code from there is run. Raises UserError."""
    folder = Path(directory)
    if not folder.is_dir():
        raise UserError(f"no such directory of a tokenizer: {directory}")
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise UserError(f"no tokenizer in {folder}: it holds none of {', '.join(VOCABULARY_FILES)}")
    from transformers import AutoTokenizer

    config = _plain_config(folder / "config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False)
    # a broken tokenizer.json raises a plain Exception from the tokenizers library
    except Exception as error:
        raise UserError(f"cannot load the tokenizer of {folder}: {' '.join(str(error).split())[:300]}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {folder} must be a fast one (tokenizer.json), got {type(tokenizer).__name__}"
        )
    return tokenizer


def _plain_config(file: Path) -> Any:
    """Of config.json only what tells the class of the tokenizer: reading it, transformers fills the memory where
    num_labels is large enough."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    values = read_json(file) if file.is_file() else {}
    model_type, class_name = (values.get(name) for name in ("model_type", "tokenizer_class"))
    known = (*FAMILIES, CompactConfig.model_type)
    config = CONFIG_MAPPING[model_type]() if model_type in known else PreTrainedConfig()
    config.tokenizer_class = class_name if isinstance(class_name, str) else None
    return config


def tokenize(
    table: Table,
    task: Task,
    tokenizer: Any,
    max_length: int | None = None,
    doc_stride: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> TokenizedSplit:
    """The rows of a table as token sequences of at most max_length tokens, special tokens included.

    Texts that are longer are cut at the end, of a pair the longer one first; passages of question answering become
    windows that share doc_stride tokens. Defaults are the task's. progress(n) is called with the number of rows done.
    Raises UserError for a length that leaves no room.
    """
    max_length = task.defaults.max_length if max_length is None else max_length
    if task.kind == "question_answering":
        return tokenize_qa(table, task, tokenizer, max_length, doc_stride, progress)
    n_special = tokenizer.num_special_tokens_to_add(pair=task.second_column is not None)
    if max_length <= n_special:
        raise UserError(f"max_length must be above the {n_special} special tokens of a sequence, got {max_length}")
    one = tokenize_words if task.kind == "token_classification" else _tokenize_texts
    split = one(table, task, tokenizer, max_length, progress)
    if not split.lengths.all():  # only a tokenizer without special tokens does this
        row = int(np.argmin(split.lengths))
        raise UserError(f"{table.source}: the text of row {row} (counted from 0) has no tokens")
    return split


def _tokenize_texts(
    table: Table, task: Task, tokenizer: Any, max_length: int, progress: Callable[[int], None] | None
) -> TokenizedSplit:
    assert task.text_column is not None
    texts = table[task.text_column]
    pairs = None if task.second_column is None else table[task.second_column]
    ids, types, cut = encode(texts, pairs, tokenizer, max_length, progress)
    if not task.has_labels:
        return TokenizedSplit(ids, types, cut=cut)
    dtype = np.int64 if task.kind == "classification" else np.float32
    return TokenizedSplit(ids, types, labels=np.asarray(table[task.label_column], dtype=dtype), cut=cut)
