"""`python -m cofi.export`: what it takes, what it writes, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.export.__main__ import main
from cofi.masks import Masks
from cofi.models import CompactConfig, CompactModel
from cofi.prune import compact
from tests.models.tiny import hf_directory, padded_inputs

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A pruned CompactModel as a run leaves it."""
    config = CompactConfig(
        vocab_size=97,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=40,
        head="classification",
    )
    z_head = torch.tensor([[0.5, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.3]])
    compact(CompactModel(config), Masks(z_head=z_head)).save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def error(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a command that fails with exit code 2."""
    assert run_command(lambda: main([str(each) for each in arguments])) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_run_directory(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model_folder.parent), "--to", "onnx"]) == 0
    written = model_folder / "model.onnx"
    assert str(written) in capsys.readouterr().out
    inputs = padded_inputs()
    logits = onnxruntime.InferenceSession(str(written)).run(["logits"], {k: v.numpy() for k, v in inputs.items()})[0]
    with torch.no_grad():
        expected = CompactModel.from_pretrained(model_folder)(**inputs).logits
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-5)


def test_hugging_face_directory_as_compact(tmp_path: Path) -> None:
    expected = hf_directory(tmp_path / "hf", "electra", "classification")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat"]
    (tmp_path / "hf" / "vocab.txt").write_text("\n".join(words) + "\n")
    assert main([str(tmp_path / "hf"), "--to", "compact"]) == 0
    inputs = padded_inputs()
    model = CompactModel.from_pretrained(tmp_path / "hf-compact").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected(**inputs).logits, rtol=0, atol=2e-5)
    # the class of the tokenizer was told by the model type alone, which is another one now
    source, written = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("hf", "hf-compact"))
    pair = source(["the cat"], ["sat"], padding="max_length", max_length=9)
    assert pair["token_type_ids"] == [[0, 0, 0, 0, 1, 1, 0, 0, 0]]
    assert dict(written(["the cat"], ["sat"], padding="max_length", max_length=9)) == dict(pair)


def test_official_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf_directory(tmp_path / "official", "bert", "classification")
    torch.save({"head_layer_z": torch.tensor([0.0, 0.5])}, tmp_path / "official" / "zs.pt")
    assert main([str(tmp_path / "official"), "--to", "compact", "--output", str(tmp_path / "small")]) == 0
    assert "official CoFi checkpoint" in capsys.readouterr().out
    assert CompactModel.from_pretrained(tmp_path / "small").layout.mha == (False, True)


def test_existing_output_needs_overwrite(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "file.onnx"
    output.write_text("mine")
    assert "exists: give --overwrite" in error(capsys, model_folder, "--to", "onnx", "--output", output)
    assert output.read_text() == "mine"
    assert main([str(model_folder), "--to=onnx", f"--output={output}", "--overwrite"]) == 0
    assert output.stat().st_size > 1000
    # the default output is checked as well
    assert main([str(model_folder), "--to", "onnx"]) == 0
    assert "model.onnx exists" in error(capsys, model_folder, "--to", "onnx")


def test_only_a_compact_model_directory_is_replaced(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    arguments = (model_folder, "--to", "compact", "--output", precious)
    assert "exists: give --overwrite" in error(capsys, *arguments)
    assert "holds no compact model and is not replaced" in error(capsys, *arguments, "--overwrite")
    assert (precious / "thesis.txt").read_text() == "mine"
    output = tmp_path / "copy"
    for extra in ([], ["--overwrite"]):
        assert main([str(model_folder), "--to", "compact", "--output", str(output), *extra]) == 0
    assert CompactModel.from_pretrained(output).layout.heads == (2, 1)


@pytest.mark.parametrize("name", ["onnx", "compact"])
def test_output_that_cannot_be_written(
    name: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error(capsys, model_folder, "--to", name, "--output", tmp_path / "nowhere" / "out")
    assert "nowhere is not a directory" in message
    # permissions would not stop a test that runs as root; the temporary name beside the second one is too long as well
    for length in (300, 250):
        message = error(capsys, model_folder, "--to", name, "--output", tmp_path / ("x" * length))
        assert "cannot be written: File name too long" in message


def test_directory_in_the_way_of_a_file(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error(capsys, model_folder, "--to", "onnx", "--output", model_folder, "--overwrite")
    assert "is no file and is not replaced" in message


def test_unknown_format_and_flag_list_the_valid_ones(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--to must be one of onnx, compact, got 'tflite'" in error(capsys, model_folder, "--to", "tflite")
    message = error(capsys, model_folder, "--to", "onnx", "--quantize")
    assert "--quantize" in message and "--output, --overwrite, --to" in message
    assert "--to" in error(capsys, model_folder)


def test_flags_take_underscores(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # no flag of this command has two words: the parser's rule shows in what it reports
    assert "--two-words" in error(capsys, model_folder, "--to", "onnx", "--two_words=1_0")


def test_what_holds_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a directory" in error(capsys, tmp_path / "nowhere", "--to", "onnx")
    assert "holds no model" in error(capsys, tmp_path, "--to", "onnx")
    (tmp_path / "config.yaml").touch()
    assert "has no model yet" in error(capsys, tmp_path, "--to", "onnx")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "model_type must be one of bert" in error(capsys, tmp_path, "--to", "onnx")


def test_help_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for word in ("--to", "--output", "--overwrite", "onnx", "compact", "zs.pt"):
        assert word in shown


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cofi.export", str(tmp_path), "--to", "onnx"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ended.returncode == 2 and "holds no model" in ended.stderr and "Traceback" not in ended.stderr


def test_errors_of_the_library_name_the_file(tmp_path: Path) -> None:
    transformers.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no weights"):
        main([str(tmp_path), "--to", "onnx"])
