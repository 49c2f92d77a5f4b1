"""--precision: bf16 on a GPU by default; on a CPU refused where it would be slow, near fp32 elsewhere, and put back."""

from __future__ import annotations

import pytest
import torch

from cofi.cli import run as run_command
from cofi.train import precision
from cofi.train.__main__ import main
from cofi.train.config import TrainConfig
from cofi.train.recipes import RECIPES, recipe_settings
from cofi_kernels import products
from tests.killed import killed_after
from tests.train.test_run import read_lines, without_times

BEFORE = "high"  # not what PyTorch starts with
# of a loss: factors are rounded by up to 2^-9. The largest difference seen in these 28 steps is a quarter of it
LOSS_TOLERANCE = 0.01
BF16 = ["--precision", "bf16", "--measure-seconds", "0"]


@pytest.fixture
def numbers(monkeypatch):
    """Of all products, what their factors became: ours even in so small a model, on any machine."""
    seen = set()
    choose = products._number

    def chosen(n: int, k: int) -> str:
        number = choose(n, k)
        seen.add(number)
        return number

    monkeypatch.setattr(products, "_number", chosen)
    monkeypatch.setattr(products, "LEAST_ROWS", 0)
    monkeypatch.setattr(products, "LEAST_WORK", 0)
    return seen


@pytest.fixture
def fast(monkeypatch, numbers):
    """A processor that --precision bf16 takes; where it is not in truth, products stay PyTorch's or fp32."""
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: True)


@pytest.fixture(autouse=True)
def _setting_of_pytorch():
    default = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(BEFORE)
    yield
    after = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(default)
    assert after == BEFORE


@pytest.mark.parametrize(
    ("asked", "device", "dtype"),
    [
        ("auto", "cuda", torch.bfloat16),
        ("auto", "cuda:1", torch.bfloat16),
        ("bf16", "cuda", torch.bfloat16),
        ("fp32", "cuda", None),
        ("auto", "cpu", None),
        ("bf16", "cpu", None),  # the factors of products alone
    ],
)
def test_weights_are_lowered_on_a_gpu_alone(asked, device, dtype):
    assert precision.compute_dtype(asked, torch.device(device)) == dtype


def test_a_gpu_is_asked_for_bf16_and_graphs_unless_someone_says_otherwise():
    for settings in ({}, *(recipe_settings(recipe, "mnli") for recipe in RECIPES)):
        config = TrainConfig(**settings)
        assert config.precision == "auto" and config.cuda_graphs


def test_refused_where_fp32_is_faster(flags, monkeypatch, capsys):
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: False)
    assert run_command(lambda: main([*flags, "--precision", "bf16"])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: --precision bf16 needs a GPU or a processor with AMX"), lines
    assert sum(line.startswith("error: ") for line in lines) == 1


def test_a_refused_run_leaves_nothing(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: False)
    assert run_command(lambda: main([*flags, "--precision", "bf16"])) == 2
    assert not (tmp_path / "run").exists()


def test_the_result_is_measured_in_fp32(flags, fast):
    assert main([*flags, "--precision", "bf16"]) == 0


def test_losses_stay_near_those_of_fp32(flags, tmp_path, fast, numbers):
    """With gates that start alike: where scores choose the units, two that are near each other may change places."""
    flags, losses = [*flags, "--recipe", "gradual"], []
    for precision_flags, run in ((["--measure-seconds", "0"], tmp_path / "fp32"), (BF16, tmp_path / "bf16")):
        assert "bf16" not in numbers
        assert main([*flags, *precision_flags, "--output", str(run)]) == 0
        losses.append([row["loss"] for row in read_lines(run / "metrics.jsonl") if "loss" in row])
    want, got = losses
    assert len(got) == len(want) > 20
    assert got == pytest.approx(want, rel=LOSS_TOLERANCE)
    if products.has_fast_bf16():
        assert "bf16" in numbers and got != want


def test_setting_is_put_back_after_an_error(flags, tmp_path, fast):
    with killed_after(3):
        main([*flags, *BF16])


def test_a_killed_run_resumes_bit_for_bit(flags, tmp_path, fast, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = [*flags, *BF16]
    assert main([*flags, "--output", str(whole)]) == 0
    with killed_after(13):
        main([*flags, "--output", str(broken), "--save-seconds", "0"])
    resume = ["--output", str(broken), "--resume"]
    with monkeypatch.context() as patch:  # moved to another machine, and back
        patch.setattr(precision, "has_fast_bf16", lambda: False)
        assert run_command(lambda: main(resume)) == 2
        assert "error: --precision bf16 needs" in capsys.readouterr().err
    assert main(resume) == 0
    assert without_times(read_lines(broken / "metrics.jsonl")) == without_times(read_lines(whole / "metrics.jsonl"))
