"""`python -m cofi.evaluate`: saved models of every kind, the table, the JSON, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from cofi.cli import run
from cofi.evaluate.__main__ import main
from cofi.models import CompactConfig, CompactModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the", "river", "runs", "deep", "where")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
TEXTS = ["good film", "bad film", "the film", "film"]


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def save_compact(folder: Path, favourite: int | None = None, **fields: Any) -> Path:
    """A model; with `favourite` it predicts that class whatever it reads."""
    model = CompactModel(CompactConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES, **fields))
    if favourite is not None:
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.arange(model.config.num_labels) == favourite)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, **columns: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.table(columns), path)
        return path

    return make


def evaluate(tmp_path: Path, *argv: object) -> dict[str, Any]:
    target = tmp_path / "result.json"
    assert main([*map(str, argv), "--json", str(target), "--device", "cpu"]) == 0
    return json.loads(target.read_text())


def test_outputs_that_are_no_numbers_have_no_score(
    tmp_path: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A class could be read off them."""
    model = save_compact(tmp_path / "m", head="classification", num_labels=2)
    weights = load_file(model / "model.safetensors")
    weights["pooler.bias"].fill_(5.0)
    weights["classifier.weight"].fill_(3e38)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    rows = write("v.parquet", sentence=TEXTS, label=[0, 1, 1, 0])
    assert run(lambda: main([str(model), "--task", "text", "--validation-file", str(rows)])) == 2
    assert f"error: {model} predicts numbers that are infinite or NaN" in capsys.readouterr().err


def test_own_file_with_words_for_labels(
    tmp_path: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_compact(tmp_path / "m", 2, head="classification", id2label={0: "dull", 1: "fine", 2: "great"})
    data = write("d.parquet", review=TEXTS, stars=["great", "dull", "great", "great"])
    result = evaluate(
        tmp_path, model, "--task", "text", "--validation_file", data, "--text-column=review", "--label_column", "stars"
    )
    assert result["metrics"]["accuracy"] == 0.75 and result["score"] == 75.0
    assert (result["examples"], result["task"], result["main_metric"]) == (4, "text", "accuracy")
    assert result["parameters"] == sum(p.numel() for p in CompactModel.from_pretrained(model).parameters())
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "0.7500" in printed and "75.00" in printed


def test_run_directory(tmp_path: Path, write: Callable[..., Path]) -> None:
    save_compact(tmp_path / "run" / "model", 1, head="classification", num_labels=2)
    write("data/sst2/validation.parquet", sentence=TEXTS, label=[1, 0, 0, 0], idx=[0, 1, 2, 3])
    result = evaluate(
        tmp_path, tmp_path / "run", "--task", "sst2", "--data", tmp_path / "data", "--max-eval-samples", 2
    )
    assert result["score"] == 50.0 and result["examples"] == 2


def test_hugging_face_checkpoint_with_its_own_order_of_classes(tmp_path: Path, write: Callable[..., Path]) -> None:
    config = BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=32, **SIZES,
        id2label={0: "Contradiction", 1: "Entailment", 2: "Neutral"},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # always "Entailment", which is class 0 of MNLI
    model.save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    rows = {"premise": TEXTS, "hypothesis": TEXTS[::-1]}
    write("mnli/validation_matched.parquet", **rows, label=[0, 0, 0, 1])
    write("mnli/validation_mismatched.parquet", **rows, label=[0, 1, 2, 2])
    result = evaluate(tmp_path, tmp_path / "m", "--task", "mnli", "--data", tmp_path)
    assert result["metrics"] == {"accuracy": 0.75, "accuracy_mismatched": 0.25} and result["score"] == 75.0


def test_regression(tmp_path: Path, write: Callable[..., Path]) -> None:
    model = save_compact(tmp_path / "m", head="classification", problem_type="regression", num_labels=1)
    data = write("d.parquet", text=TEXTS, label=[1, 2, 3, 5])
    result = evaluate(tmp_path, model, "--task", "text", "--validation-file", data)
    assert set(result["metrics"]) == {"pearson", "spearmanr", "combined", "mse"}


def test_question_answering(tmp_path: Path, write: Callable[..., Path]) -> None:
    model = save_compact(tmp_path / "m", head="question_answering")
    answers = [{"text": ["deep"], "answer_start": [0]}]
    data = write("d.parquet", id=["x"], question=["where"], context=["deep"], answers=answers)
    result = evaluate(
        tmp_path, model, "--task", "squad", "--validation-file", data, "--max-length", 20, "--doc-stride", 3
    )
    assert result["metrics"] == {"exact_match": 100.0, "f1": 100.0} and result["score"] == 100.0


def test_held_out_rows_are_those_of_training(tmp_path: Path, write: Callable[..., Path]) -> None:
    from cofi.data import load_splits

    model = save_compact(tmp_path / "m", 0, head="classification", num_labels=2)
    data = write("d.parquet", text=[f"film {i}" for i in range(60)], label=[i % 2 for i in range(60)])
    held_out = load_splits("text", train_file=data, validation_fraction=0.3).validation
    result = evaluate(tmp_path, model, "--task", "text", "--train-file", data, "--validation-fraction", 0.3)
    assert result["examples"] == len(held_out)
    assert result["metrics"]["accuracy"] == pytest.approx(held_out["label"].count(0) / len(held_out))


def test_json_on_standard_output_stands_alone(
    tmp_path: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_compact(tmp_path / "m", 0, head="classification", num_labels=2)
    data = write("d.parquet", text=TEXTS, label=[0, 1, 1, 1])
    assert main([str(model), "--task", "text", "--validation-file", str(data), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["score"] == 25.0
    assert "accuracy" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["m", "--task", "text", "--sparsity", "3"],
            "unrecognized arguments: --sparsity 3 (flags: --batch-size, --data,",
        ),
        (["m"], "--task must be given for a model that is not in the directory of a run"),
        (["m", "--task", "text", "--batch_size", "0"], "--batch-size: must be a whole number from 1, got '0'"),
        (["m", "--task", "text", "--max-length", "-1"], "--max-length: must be a whole number from 1, got '-1'"),
        (
            ["m", "--task", "text", "--json", "gone/x.json"],
            "--json: 'gone/x.json' cannot be written: there is no directory gone",
        ),
        (["m", "--task", "sst3", "--validation-file", "d"], "--task must be one of sst2, mnli,"),
        (["m", "--task", "sst2", "--validation-file", "d"], "the classes of m must be those of task sst2"),
        (["m", "--task", "stsb", "--validation-file", "d"], "has no column 'sentence1'"),
        (["m", "--task", "text", "--validation-file", "w"], "must be 0 to 1 (dull, fine), got 2 in row 3"),
        (["m", "--task", "text"], "task text needs --validation-file FILE, or --validation-fraction"),
        (["m", "--task", "text", "--validation-file", "d", "--device", "tpu9"], "--device must be"),
        (["bare", "--task", "text", "--validation-file", "d"], "bare has no trained head for a task"),
        (["./gone", "--task", "text", "--validation-file", "d"], "gone"),
    ],
)
def test_what_cannot_be_used(
    tmp_path: Path,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_compact(tmp_path / "m", 0, head="classification", id2label={0: "dull", 1: "fine"})
    save_compact(tmp_path / "bare")
    write("d.parquet", sentence=TEXTS, label=[0, 1, 1, 1])
    write("w.parquet", sentence=TEXTS, label=[0, 1, 1, 2])
    capsys.readouterr()  # saving a model prints its own progress
    given = [f"{word}.parquet" if word in ("d", "w") else word for word in argv]
    assert run(lambda: main(given)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


@pytest.fixture
def run_of(tmp_path: Path, write: Callable[..., Path]) -> Callable[..., Path]:
    """A run with a model that says class 1, and the settings given."""

    def make(**settings: Any) -> Path:
        root = tmp_path / "run"
        save_compact(root / "model", 1, head="classification", id2label={0: "dull", 1: "fine"})
        settings = {"task": "text", "text_column": "review", "max_length": 4} | settings
        (root / "config.yaml").write_text(yaml.safe_dump(settings))
        (root / "metrics.jsonl").touch()
        return root

    return make


@pytest.mark.parametrize("named", ["run", "run/model"])
def test_a_run_is_evaluated_as_it_trained(
    tmp_path: Path,
    write: Callable[..., Path],
    run_of: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    named: str,
) -> None:
    rows = {"review": ["good film", "bad film the film"], "sentence": ["x", "y"], "label": ["fine", "dull"]}
    run_of(validation_file=str(write("d.parquet", **rows)))
    result = evaluate(tmp_path, tmp_path / named)
    assert (result["task"], result["score"]) == ("text", 50.0)
    shown = capsys.readouterr().out
    assert f"as in {tmp_path / 'run'}: --task text --max-length 4 --text-column review --validation-file" in shown
    assert "1 of 2 texts are cut at 4 tokens (--max-length)" in shown


def test_flags_come_before_what_the_run_had(
    tmp_path: Path, write: Callable[..., Path], run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(validation_file="gone.parquet", train_file="gone.parquet", max_eval_samples=1)
    other = write("other.parquet", review=["good", "bad film the film"], label=["fine", "fine"])
    result = evaluate(tmp_path, run, "--validation-file", other, "--max-length", 9)
    assert (result["examples"], result["score"]) == (2, 100.0)
    shown = capsys.readouterr().out
    assert f"as in {run}: --task text --text-column review\n" in shown and "cut" not in shown


def test_the_run_adds_what_its_task_and_held_out_rows_need(
    tmp_path: Path, write: Callable[..., Path], run_of: Callable[..., Path]
) -> None:
    write("data/mine/train.parquet", review=["good"], label=["dull"])
    other = write("other.parquet", review=["good", "bad"], label=["fine", "fine"])
    run = run_of(task="mine", data=str(tmp_path / "data"))
    assert evaluate(tmp_path, run, "--validation-file", other)["score"] == 100.0
    rows = write("rows.parquet", review=[f"film {i}" for i in range(20)], label=["fine"] * 10 + ["dull"] * 10)
    run_of(task="text", train_file=str(rows), validation_fraction=0.2)
    assert 0 < evaluate(tmp_path, run, "--validation-fraction", 0.5)["examples"] < 20


def test_a_configuration_of_something_else_is_no_run(
    tmp_path: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_compact(tmp_path / "project" / "model", 1, head="classification", num_labels=2)
    (tmp_path / "project" / "config.yaml").write_text("lr: 1\n")
    data = write("d.parquet", sentence=TEXTS, label=[0, 1, 1, 1])
    assert evaluate(tmp_path, model, "--task", "sst2", "--validation-file", data)["score"] == 75.0
    assert run(lambda: main([str(model)])) == 2
    assert "--task must be given for a model that is not in the directory of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("1", "2", "other"), [2, 2, 2, 1]), (("-1", "0", "1"), [0, 0, 0, 1]), (("2", "0", "1"), [0, 0, 0, 1])],
    ids=["beside words", "below zero", "in another order"],
)
def test_integers_that_are_names_are_those_classes(
    tmp_path: Path, write: Callable[..., Path], names: tuple[str, ...], labels: list[int]
) -> None:
    model = save_compact(tmp_path / "m", 1, head="classification", id2label=dict(enumerate(names)))
    data = write("d.parquet", sentence=TEXTS, label=labels)
    assert evaluate(tmp_path, model, "--task", "text", "--validation-file", data)["score"] == 75.0


def test_another_task_takes_nothing_from_the_run(
    tmp_path: Path, write: Callable[..., Path], run_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine/validation.parquet", sentence=["good film the film"], label=["fine"])
    result = evaluate(tmp_path, run_of(), "--task", "mine", "--data", tmp_path)
    assert result["score"] == 100.0
    shown = capsys.readouterr().out
    assert "as in" not in shown and "cut" not in shown


@pytest.mark.parametrize("kind", ["regression", "question_answering"])
def test_head_of_another_kind(tmp_path: Path, write: Callable[..., Path], kind: str) -> None:
    from cofi.errors import UserError

    fields = {"regression": {"head": "classification", "problem_type": "regression", "num_labels": 1}}
    model = save_compact(tmp_path / "m", **fields.get(kind, {"head": kind}))
    data = write("d.parquet", sentence=TEXTS, label=[0, 1, 1, 1])
    with pytest.raises(UserError, match=f"task sst2 is classification, the head of .*m is for {kind}"):
        main([str(model), "--task", "sst2", "--validation-file", str(data), "--device", "cpu"])


def test_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cofi.evaluate", "./gone", "--task", "sst2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 2 and done.stderr.startswith("error: ")


@pytest.mark.parametrize("has", [True, False])
def test_a_precision_without_instructions_is_said(tmp_path, write, monkeypatch, capsys, has):
    model = save_compact(tmp_path / "model", favourite=0, head="classification", num_labels=2)
    rows = write("rows.parquet", text=TEXTS, label=[0, 1, 0, 1])
    monkeypatch.setattr("cofi.evaluate.judge.is_emulated", lambda precision: precision == "int8" and not has)
    for precision in ("int8", "fp32"):
        assert main([str(model), "--task", "text", "--validation-file", str(rows), "--precision", precision]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("no instructions for int8" in said) == (precision == "int8" and not has)


def test_precision_is_chosen_and_reported(tmp_path, write):
    model = save_compact(tmp_path / "model", favourite=0, head="classification", num_labels=2)
    rows = write("rows.parquet", text=TEXTS, label=[0, 1, 0, 1])
    flags = [str(model), "--task", "text", "--validation-file", str(rows), "--json", str(tmp_path / "out.json")]
    for precision in ("int8", "fp32"):
        assert main([*flags, "--precision", precision]) == 0
        result = json.loads((tmp_path / "out.json").read_text())
        assert result["precision"] == precision and result["score"] == 50.0
