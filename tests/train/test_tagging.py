"""Runs on words with a label each: from lists in a file to a small model that transformers' pipeline reads."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForTokenClassification, pipeline

from cofi.cli import run as run_command
from cofi.data.features import load_tokenizer
from cofi.evaluate.__main__ import main as evaluate
from cofi.models import load_model, save_model
from cofi.train.__main__ import main
from tests.train.test_multi_label import PRIOR, metrics

TAGS = {
    **dict.fromkeys(("cat", "dog", "bird"), "B-ANIMAL"),
    **dict.fromkeys(("runs", "sleeps", "sings"), "I-ANIMAL"),  # a span with the animal before it, or one of its own
    **dict.fromkeys(("tree", "house", "river"), "B-PLACE"),
}


@pytest.fixture
def tagged(data, tmp_path):
    folder = tmp_path / "data" / "tagged"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        words = [text.split() for text in pq.read_table(data / "animals" / f"{split}.parquet")["sentence"].to_pylist()]
        table = pa.table({"tokens": words, "ner_tags": [[TAGS.get(word, "O") for word in row] for row in words]})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder.parent


def test_a_run_learns_labels_of_words_and_its_model_is_scored(flags, data, tagged, tmp_path, capsys):
    teacher = ["--teacher-epochs", "20", "--teacher-learning-rate", "3e-3"]
    assert main([*flags, *PRIOR, *teacher, "--task", "tagged", "--data", str(tagged)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "token_classification of 4 (B-ANIMAL, B-PLACE, I-ANIMAL, O)" in said
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["metric"] == "f1" and result["teacher_score"] > 90
    small = load_model(run / "model")
    assert small.head_trained and small.model.config.head == "token_classification"
    found = metrics(tmp_path / "a.json", run)
    assert 100 * found["f1"] == pytest.approx(result["compact_score"])
    assert set(found) == {"f1", "precision", "recall", "accuracy"}

    turned = load_model(run / "model").model  # the same model, its classes in another order
    with torch.no_grad():
        for tensor in (turned.classifier.weight, turned.classifier.bias):
            tensor.copy_(tensor[[3, 0, 1, 2]].clone())
    turned.config.id2label = dict(enumerate(("O", "B-ANIMAL", "B-PLACE", "I-ANIMAL")))
    turned.config.label2id = {name: i for i, name in turned.config.id2label.items()}
    alone = save_model(turned, load_tokenizer(run / "model"), tmp_path / "alone" / "turned")
    words = ("--task", "tagged", "--data", tagged)
    assert metrics(tmp_path / "b.json", alone, *words) == pytest.approx(found)
    assert run_command(lambda: evaluate([str(alone), "--task", "animals", "--data", str(data)])) == 2
    assert f"task animals is classification, the head of {alone} is for" in capsys.readouterr().err


def test_the_teacher_finds_spans_through_transformers_pipeline(flags, tagged, tmp_path):
    rest = ["--teacher-epochs", "20", "--teacher-learning-rate", "3e-3", "--teacher-only"]
    assert main([*flags, *rest, "--task", "tagged", "--data", str(tagged)]) == 0
    saved = tmp_path / "run" / "teacher"
    model = AutoModelForTokenClassification.from_pretrained(saved)
    find = pipeline("token-classification", model=model, tokenizer=load_tokenizer(saved), aggregation_strategy="simple")
    found = [(span["entity_group"], span["word"]) for span in find("the red cat runs under the dog over a house")]
    assert found == [("ANIMAL", "cat runs"), ("ANIMAL", "dog"), ("PLACE", "house")]


def test_it_is_learned_without_a_teacher_too(flags, tagged, tmp_path):
    rest = ["--task", "tagged", "--data", str(tagged), "--teacher-epochs", "1", "--no-distill"]
    assert main([*flags, *rest]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if row.get("phase") == "finetune" and "loss" in row]
    assert losses and all(0 < loss < 2.0 for loss in losses)  # cross-entropies, 1.39 where nothing is known
