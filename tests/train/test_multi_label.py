"""Runs on rows that have any number of labels: from lists in a file to a small model and what is said of it."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cofi.cli import run as run_command
from cofi.data.features import load_tokenizer
from cofi.evaluate.__main__ import main as evaluate
from cofi.models import load_model, save_model
from cofi.train.__main__ import main

PRIOR = ["--gate-prior", "fisher", "--rounding", "threshold", "--gate-prior-rounds", "2"]
ANIMALS = ("bird", "cat", "dog")


@pytest.fixture
def animals(data, tmp_path):
    """The sentences of the task with those animals as labels that they name."""
    folder = tmp_path / "data" / "named"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        texts = pq.read_table(data / "animals" / f"{split}.parquet")["sentence"].to_pylist()
        labels = [[name for name in ANIMALS if name in text.split()] for text in texts]
        assert {len(row) for row in labels} >= {0, 1, 2}
        pq.write_table(pa.table({"sentence": texts, "label": labels}), folder / f"{split}.parquet")
    return folder.parent


def metrics(output, *words):
    assert evaluate([*map(str, words), "--json", str(output)]) == 0
    return json.loads(output.read_text())["metrics"]


def test_a_run_learns_several_labels_and_its_model_is_scored(flags, data, animals, tmp_path, capsys):
    teacher = ["--teacher-epochs", "20", "--teacher-learning-rate", "3e-3"]
    assert main([*flags, *PRIOR, *teacher, "--task", "named", "--data", str(animals)]) == 0
    assert "multi_label of 3 (bird, cat, dog)" in " ".join(capsys.readouterr().err.split())
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["metric"] == "f1_micro" and result["teacher_score"] > 50
    small = load_model(run / "model")
    assert small.head_trained and small.model.config.problem == "multi_label_classification"
    found = metrics(tmp_path / "a.json", run)
    assert 100 * found["f1_micro"] == pytest.approx(result["compact_score"])
    assert set(found) == {"f1_micro", "f1_macro", "subset_accuracy"}

    turned = load_model(run / "model").model  # the same model, its classes in another order
    with torch.no_grad():
        for tensor in (turned.classifier.weight, turned.classifier.bias):
            tensor.copy_(tensor[[2, 0, 1]].clone())
    turned.config.id2label = dict(enumerate(("dog", "bird", "cat")))
    turned.config.label2id = {name: i for i, name in turned.config.id2label.items()}
    alone = save_model(turned, load_tokenizer(run / "model"), tmp_path / "alone" / "turned")
    words = ("--task", "named", "--data", animals)
    assert metrics(tmp_path / "b.json", alone, *words) == pytest.approx(found)
    assert run_command(lambda: evaluate([str(alone), "--task", "animals", "--data", str(data)])) == 2
    assert f"task animals is classification, the head of {alone} is for multi_label" in capsys.readouterr().err


def test_it_is_learned_without_a_teacher_too(flags, animals, tmp_path):
    rest = ["--task", "named", "--data", str(animals), "--teacher-epochs", "1", "--no-distill"]
    assert main([*flags, *rest]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if row.get("phase") == "finetune" and "loss" in row]
    assert losses and all(0 < loss < 1.5 for loss in losses)  # binary cross-entropies, 0.69 where nothing is known
