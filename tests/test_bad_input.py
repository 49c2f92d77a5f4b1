"""Bad input to the commands: one line that names the thing, the rule and the value, exit code 2, nothing half-made.

`tests/data`, `tests/models` and `tests/train` check the rules one by one; here whole commands meet them.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from cofi.cli import run as run_command
from cofi.models import load_model, save_model
from cofi.train import inputs, monitor

COMMANDS = ("train", "evaluate", "export", "bench")
BENCH = ["--batch-size", "1", "--seq-len", "6", "--rounds", "1", "--device", "cpu"]


def call(command: str, arguments: list[Any]) -> int:
    module = importlib.import_module(f"cofi.{command}.__main__")
    return run_command(lambda: module.main([str(each) for each in arguments]))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def check(command: str, arguments: list[Any], *words: str) -> None:
        capsys.readouterr()  # transformers shows progress while a test saves a model
        assert call(command, arguments) == 2
        lines = capsys.readouterr().err.splitlines(keepends=True)
        error = "".join(line for line in lines if not line.startswith("note: "))  # of flags that do nothing
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert all(word in error for word in words), error

    return check


@pytest.fixture(scope="module")
def teacher(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model with a head for task `animals`, as a run saves it."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    model = load_model(checkpoint, head="classification", num_labels=2).model
    model.config.id2label, model.config.label2id = {0: "0", 1: "1"}, {"0": 0, "1": 1}
    return save_model(model, checkpoint, folder)


def table(**columns: Any) -> pa.Table:
    return pa.table({"sentence": ["a cat", "the dog", "a cat"], "label": [0, 1, 1]} | columns)


# name: (file, options, what the message says); None: no file
DATA: dict[str, tuple[pa.Table | bytes | None, list[str], tuple[str, ...]]] = {
    "missing": (None, [], ("no such file", "d.parquet")),
    "no bytes": (b"", [], ("cannot read", "d.parquet as Parquet")),
    "noise": (b"PAR1" + bytes(50) + b"PAR1", [], ("cannot read", "d.parquet as Parquet")),
    "no rows": (table().slice(0, 0), [], ("d.parquet has no rows",)),
    "text column": (table(), ["--text-column", "colour"], ("no column 'colour' (columns: sentence, label)",)),
    "label column": (table(), ["--label-column", "colour"], ("no column 'colour'",)),
    "null text": (table(sentence=["a", None, "b"]), [], ("column 'sentence' must not be empty, but row 1",)),
    "null label": (table(label=[0, None, 1]), [], ("column 'label' must not be empty, but row 1",)),
    "numbers for text": (table(sentence=[1, 2, 3]), [], ("column 'sentence' must hold text, got int64",)),
    "words for numbers": (
        table(label=["high", "low", "low"]),
        ["--task-kind", "regression"],
        ("column 'label' must hold numbers for regression, got 'high' in row 0",),
    ),
}


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("name", DATA)
def test_data(
    command: str, name: str, fails: Callable[..., None], checkpoint: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    content, options, words = DATA[name]
    file, good = tmp_path / "d.parquet", data / "animals" / "train.parquet"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        pq.write_table(content, file)
    for train, validation in ((file, good), (good, file)) if name in ("missing", "no bytes") else ((file, file),):
        flags = ["--task", "text", "--train-file", train, "--validation-file", validation, *options]
        if command == "train":
            fails("train", [*flags, "--model", checkpoint, "--output", tmp_path / "run"], *words)
        elif validation == file:
            fails("evaluate", [teacher, "--task", "text", "--validation-file", file, *options], *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        (table(), table(label=[0, 1, 7]), "must be one of the classes 0, 1, got '7' in row 2"),
        (table(), table(label=["no", "yes", "no"]), "must be one of the classes 0, 1, got 'no' in row 0"),
        (table(), table(label=[0.5, 1.0, 1.0]), "must hold whole numbers or words to name classes, got 0.5 in row 0"),
        (table(label=[1, 1, 1]), table(), "must hold at least 2 classes, all its labels are 1"),
        (table().slice(0, 1), table(), "must hold at least 2 classes, all its labels are 0"),
        (table(label=[1e30, 2.5, 3.0]), table(), "must be at most 1e+18 in size, got 1e+30 in row 0"),
    ],
    ids=["class", "words", "numbers", "one class", "one row", "too large"],
)
def test_labels(
    train: pa.Table, validation: pa.Table, words: str, flags: list[str], fails: Callable[..., None], tmp_path: Path
) -> None:
    files = []
    for split, rows in (("train", train), ("validation", validation)):
        pq.write_table(rows, tmp_path / f"{split}.parquet")
        files += [f"--{split}-file", tmp_path / f"{split}.parquet"]
    fails("train", [*flags, *files, "--task", "text"], words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "{here}/gone"], "no such directory: --data {here}/gone"),
        (["--data", "{here}"], "--task must be one of sst2, mnli"),
        (["--mask-kinds", "wings"], "--mask-kinds: mask kinds must be any of head, int, hidden, mha, ffn or all"),
        (["--student-init", "x"], "--student-init: invalid choice: 'x'"),
        (["--sparsitty", "0.5"], "unrecognized arguments: --sparsitty 0.5 (did you mean --sparsity?)"),
        (["--wings", "2"], "unrecognized arguments: --wings 2 (python -m cofi.train --help lists all flags)"),
        (["--sparsity", "nan"], "--sparsity must be in [0, 1), got nan"),
        (["--start-sparsity", "0.9"], "--start-sparsity must not exceed --sparsity (0.6), got 0.9"),
        (["--init-mean", "nan"], "--init-mean must be in (-inf, inf), got nan"),
        (["--max-train-samples", "0"], "--max-train-samples must be in (0, inf), got 0"),
        (["--max-length", "33"], "--max-length must be at most 32, the positions that the model has, got 33"),
        (["--max-length", "2"], "max_length must be above the 2 special tokens of a sequence, got 2"),
        (["--threads", "100000000000"], "--threads must be at most 1024"),
        (["--device", "meta"], "--device must be auto, cpu or a GPU of this machine, got 'meta'"),
        (["--model", ""], "--model must not be empty"),
        (["--model", "{here}/gone"], "model directory {here}/gone does not exist"),
        (["--teacher", "{here}/gone"], "model directory {here}/gone does not exist"),
        (["--model", "{data}/animals/train.parquet"], "model must be a directory or a hub id"),
        (["--output", "{data}/animals/train.parquet"], "train.parquet is a file, and must be a directory"),
        (["--output", "{data}/animals/train.parquet/run"], "train.parquet is not a writable directory"),
        (["--output", "{data}"], "is not empty and holds no run"),
        (["--output", "{here}/" + 300 * "x"], "cannot be written: File name too long"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_flags_of_train(
    options: list[str], words: str, flags: list[str], data: Path, fails: Callable[..., None], tmp_path: Path
) -> None:
    places = {"here": tmp_path, "data": data}
    fails("train", [*flags, *(word.format(**places) for word in options)], words.format(**places))
    assert not list(tmp_path.iterdir())


def test_tensorboard_is_asked_for_before_the_run_starts(
    flags: list[str], fails: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor.importlib.util, "find_spec", lambda name: None)
    fails("train", [*flags, "--tensorboard"], "--tensorboard needs the package tensorboard")
    assert not (tmp_path / "run").exists()


Edit = Callable[[Path], object]


def config(**changes: Any) -> Edit:
    """Edits config.json; ... removes a field."""

    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        values = {name: value for name, value in values.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(values))

    return edit


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def cut(name: str, keep: float) -> Edit:
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return edit


NAME = "layers.1.ffn.w_up"
MODELS: dict[str, tuple[Edit, str]] = {
    "gpt2": (config(model_type="gpt2"), "model_type must be one of bert, roberta"),
    "no model type": (config(model_type=...), "model_type must be one of bert, roberta"),
    "no json": (cut("config.json", 0.5), "config.json cannot be read as JSON"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no model: neither config.json nor"),
    "field missing": (config(num_hidden_layers=...), "lacks the tensor layers.2.attention.w_qkv of shape"),
    "huge": (config(vocab_size=1 << 24), "must have shape (16777216, 32) by config.json, got (21, 32)"),
    "beyond all": (config(intermediate_size=1 << 60), "intermediate_size must be an integer in [0, 1048576], got"),
    "labels": (config(num_labels=(1 << 20) + 1, id2label=...), "num_labels must be an integer in [1, 1048576], got"),
    "text": (config(hidden_size="32"), "hidden_size must be an integer in [1, 65536], got '32'"),
    "no list": (config(id2label=[1]), "id2label must "),
    "cut weights": (cut("model.safetensors", 0.9), "model.safetensors is truncated or no safetensors file"),
    "no weights": (cut("model.safetensors", 0.0), "model.safetensors is truncated or no safetensors file"),
    "missing tensor": (weights(lambda state: state.pop(NAME)), f"lacks the tensor {NAME} of shape (48, 32)"),
    "integers": (weights(lambda s: s.update({NAME: s[NAME].int()})), f"{NAME} must hold floating point numbers"),
    "nan": (weights(lambda state: state[NAME].fill_(float("nan"))), f"{NAME} must hold finite numbers"),
}
ARGUMENTS: dict[str, list[str]] = {
    "evaluate": ["{model}", "--task", "animals", "--data", "{data}", "--device", "cpu"],
    "export": ["{model}", "--to", "compact", "--output", "{output}"],
    "bench": ["{model}", *BENCH],
    "train": ["--model", "{model}", "--task", "animals", "--data", "{data}", "--output", "{output}"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", MODELS)
def test_models(command: str, name: str, teacher: Path, data: Path, fails: Callable[..., None], tmp_path: Path) -> None:
    edit, words = MODELS[name]
    edit(Path(shutil.copytree(teacher, tmp_path / "model")))
    places = {"model": tmp_path / "model", "data": data, "output": tmp_path / "out"}
    fails(command, [word.format(**places) for word in ARGUMENTS[command]], words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in"),
        (cut("tokenizer.json", 0.5), "cannot load the tokenizer of"),
        (
            lambda folder: (folder / "tokenizer.json").write_text(
                (folder / "tokenizer.json").read_text().replace('"cat": ', '"cat": 9')
            ),
            "the model knows 21 tokens, the tokenizer made token",
        ),
    ],
    ids=["none", "cut", "of another model"],
)
def test_tokenizers(
    command: str, edit: Edit, words: str, teacher: Path, data: Path, fails: Callable[..., None], tmp_path: Path
) -> None:
    edit(Path(shutil.copytree(teacher, tmp_path / "model")))
    places = {"model": tmp_path / "model", "data": data, "output": tmp_path / "out"}
    fails(command, [word.format(**places) for word in ARGUMENTS[command]], words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "export", "bench"])
def test_a_run_without_a_model_yet(command: str, fails: Callable[..., None], data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    places = {"model": tmp_path / "run", "data": data, "output": tmp_path / "out"}
    fails(command, [word.format(**places) for word in ARGUMENTS[command]], "has no model yet: it writes")


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("evaluate", ["--max-length", "33"], "--max-length must be at most 32"),
        ("evaluate", ["--max-eval-samples", "0"], "--max-eval-samples: must be a whole number from 1, got '0'"),
        (
            "evaluate",
            ["--task-kind", "x"],
            "task_kind must be one of auto, classification, multi_label, regression, token_classification, embedding",
        ),
        ("evaluate", ["--json", "/gone/x"], "--json: '/gone/x' cannot be written: there is no directory /gone"),
        ("export", ["--to", "tflite"], "--to must be one of onnx, compact, got 'tflite'"),
        ("bench", ["--seq-len", "33"], "--seq-len must be at most 32"),
        ("bench", ["--threads", "99999999999"], "--threads must be at most 1024"),
        ("bench", ["--dense", "/gone"], "model directory /gone does not exist"),
        ("bench", ["--json", "/"], "--json: '/' cannot be written: is a directory"),
    ],
)
def test_flags_of_the_others(
    command: str, options: list[str], words: str, teacher: Path, data: Path, fails: Callable[..., None], tmp_path: Path
) -> None:
    places = {"model": teacher, "data": data, "output": tmp_path / "out"}
    fails(command, [*(word.format(**places) for word in ARGUMENTS[command]), *options], words)
    assert not list(tmp_path.iterdir())


def test_stock_transformers_cannot_load_the_original(
    checkpoint: Path, teacher: Path, fails: Callable[..., None], tmp_path: Path
) -> None:
    config(per_layer_config=[1])(Path(shutil.copytree(checkpoint, tmp_path / "dense")))
    fails("bench", [teacher, *BENCH, "--dense", tmp_path / "dense"], "--dense: transformers cannot load")


def test_interrupt_while_data_are_read(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inputs, "load_splits", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGINT))
    assert call("train", flags) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "stopped\n"
    assert not (tmp_path / "run").exists()
