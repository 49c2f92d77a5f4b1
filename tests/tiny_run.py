"""A checkpoint and a data set small enough that whole runs take seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

WORDS = [
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "bird",
    "runs",
    "sleeps",
    "sings",
    "under",
    "over",
    "the",
    "a",
    "tree",
    "house",
    "river",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_checkpoint(
    folder: Path,
    pieces: tuple[str, ...] = (),
    architecture: type[PreTrainedModel] = BertModel,
    hidden_size: int = 32,
) -> Path:
    """A random BERT of 2 layers with its tokenizer, no head. pieces: with them the tokenizer is one of wordpieces."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS, *pieces])}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    architecture(config).save_pretrained(folder)
    kind = models.WordPiece if pieces else models.WordLevel
    tokenizer = Tokenizer(kind(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, **{f"{k}_token": v for k, v in names.items()}
    ).save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """Task `animals`: whether a sentence names a cat. GLUE's columns."""
    draw = random.Random(0)
    (folder / "animals").mkdir()
    for split, rows in (("train", 64), ("validation", 24)):
        sentences = [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(rows)]
        labels = [int("cat" in s.split()) for s in sentences]
        table = pa.table({"sentence": sentences, "label": labels, "idx": list(range(rows))})
        pq.write_table(table, folder / "animals" / f"{split}.parquet")
    return folder


def run_flags(checkpoint: Path, data: Path, output: Path) -> list[str]:
    """A complete run in about 30 steps."""
    settings = {
        "task": "animals",
        "data": data,
        "model": checkpoint,
        "output": output,
        "sparsity": 0.6,
        "batch-size": 16,
        "teacher-epochs": 2,
        "distil-epochs": 1,
        "prune-epochs": 3,
        "sparsity-warmup-epochs": 1,
        "finetune-epochs": 1,
        "reg-learning-rate": 0.2,
        "log-steps": 1,
        "eval-steps": 3,
        "measure-seconds": 0,
        "device": "cpu",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
