"""Runs on files that number the classes which a fine-tuned model has names for: the small model keeps the names."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cofi.data.features import load_tokenizer
from cofi.evaluate.__main__ import main as evaluate
from cofi.models import load_model, save_model
from cofi.train.__main__ import main
from tests.train.test_multi_label import metrics

from .test_tagging import TAGS

NAMES = ("no cat", "CAT")
ENTITIES = ("O", "B-PLACE", "B-ANIMAL", "I-ANIMAL")


def save_teacher(checkpoint: Path, folder: Path, head: str, names: tuple[str, ...]) -> Path:
    """A model whose head counts as trained, with names for its classes."""
    loaded = load_model(checkpoint, head=head, num_labels=len(names))
    loaded.model.config.id2label = dict(enumerate(names))
    loaded.model.config.label2id = {name: i for i, name in enumerate(names)}
    return save_model(loaded.model, load_tokenizer(checkpoint), folder)


@pytest.fixture
def numbered(data: Path, tmp_path: Path) -> Path:
    """The sentences of the task as words, each with the number of its class, as JSON lines that name none."""
    folder = tmp_path / "data" / "numbered"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [text.split() for text in pq.read_table(data / "animals" / f"{split}.parquet")["sentence"].to_pylist()]
        tags = [[ENTITIES.index(TAGS.get(word, "O")) for word in row] for row in rows]
        lines = (json.dumps({"tokens": row, "ner_tags": tag}) for row, tag in zip(rows, tags, strict=True))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder.parent


def finished(run: Path) -> tuple[dict[str, object], list[str]]:
    """What the run says of itself, and the names of the small model's classes."""
    config = json.loads((run / "model" / "config.json").read_text())
    return json.loads((run / "result.json").read_text()), list(config["id2label"].values())


def test_of_texts(flags, checkpoint, data, tmp_path, capsys):
    teacher = save_teacher(checkpoint, tmp_path / "teacher", "classification", NAMES)
    files = [f"--{split}-file={data / 'animals' / split}.parquet" for split in ("train", "validation")]
    own = [*files, "--task", "text", "--text-column", "sentence"]
    assert main([*flags, "--model", str(teacher), "--teacher-epochs", "0", *own]) == 0
    assert "classification of 2 (no cat, CAT)" in " ".join(capsys.readouterr().err.split())
    run = tmp_path / "run"
    result, names = finished(run)
    assert names == list(NAMES)
    card = (run / "model" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and str(tmp_path) not in card and "base_model" not in card
    of_run = metrics(tmp_path / "a.json", run)
    assert 100 * of_run["accuracy"] == pytest.approx(result["compact_score"])
    assert metrics(tmp_path / "b.json", run / "model", files[1], *own[2:]) == of_run


def test_of_words(flags, checkpoint, numbered, tmp_path, capsys):
    teacher = save_teacher(checkpoint, tmp_path / "teacher", "token_classification", ENTITIES)
    task = ["--task", "numbered", "--data", str(numbered)]
    assert main([*flags, "--model", str(teacher), "--teacher-epochs", "0", *task]) == 0
    assert "token_classification of 4 (O, B-PLACE, B-ANIMAL, I-ANIMAL)" in " ".join(capsys.readouterr().err.split())
    run = tmp_path / "run"
    result, names = finished(run)
    assert names == list(ENTITIES) and result["metric"] == "f1"  # of spans, which only names can tell
    of_run = metrics(tmp_path / "a.json", run)
    assert 100 * of_run["f1"] == pytest.approx(result["compact_score"])
    moved = save_model(load_model(run / "model").model, load_tokenizer(run / "model"), tmp_path / "alone" / "model")
    assert metrics(tmp_path / "b.json", moved, *task) == of_run


def test_numbers_that_do_not_begin_at_0_stay_names(flags, checkpoint, data, tmp_path):
    teacher = save_teacher(checkpoint, tmp_path / "teacher", "classification", NAMES)
    stars = tmp_path / "stars"
    stars.mkdir()
    for split in ("train", "validation"):
        table = pq.read_table(data / "animals" / f"{split}.parquet").to_pydict()
        lines = [f"{text},{label + 1}" for text, label in zip(table["sentence"], table["label"], strict=True)]
        (stars / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    task = ["--task", "stars", "--data", str(tmp_path)]
    assert main([*flags, "--model", str(teacher), "--teacher-epochs", "0", *task]) == 0
    assert finished(tmp_path / "run")[1] == ["1", "2"]
    assert evaluate([str(tmp_path / "run" / "model"), *task]) == 0
