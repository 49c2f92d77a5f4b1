"""Whole runs of every baseline: the same length as CoFi's, the size that was asked for, and they can be continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cofi import CompactModel
from cofi.baselines import COFI, METHODS
from cofi.cli import run as run_command
from cofi.data.batches import collate
from cofi.train import scoring
from cofi.train.__main__ import main
from tests.killed import killed_after

SPARSITY = {"prune-heads": 0.3, "prune-ffn": 0.4, "drop-top-layers": 0.5, "drop-every-other-layer": 0.5}
PHASES = ("distil", "prune", "finetune")


def flags_of(method: str, flags: list[str]) -> list[str]:
    return [*flags, "--method", method, "--sparsity", str(SPARSITY.get(method, 0.6))]


def read(run: Path) -> tuple[dict, list[dict]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return json.loads((run / "result.json").read_text()), rows


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_as_many_steps_and_delivers_its_size(flags, tmp_path, method):
    assert main([*flags_of(method, flags), "--measure-seconds", "0.2"]) == 0
    result, rows = read(tmp_path / "run")
    steps = [row for row in rows if row["type"] == "step" and row["phase"] in PHASES]
    assert len(steps) == 5 * 4  # 1 + 3 + 1 epochs of 4 steps
    assert all("layer_loss" in row and "prediction_loss" in row for row in steps)
    if method != COFI:
        assert result["sparsity"] == pytest.approx(SPARSITY.get(method, 0.6), abs=0.03)
    model = CompactModel.from_pretrained(tmp_path / "run" / "model")
    assert sum(p.numel() for p in model.layers.parameters()) == result["params_after"]
    assert result["speedup"].keys() == {"batch 1", "batch 32"}


@pytest.mark.parametrize(("method", "stop_at"), [("fisher", 14), ("movement", 15), ("movement", 25)], ids=str)
def test_a_killed_baseline_resumes_bit_for_bit(flags, tmp_path, method, stop_at):
    flags = flags_of(method, flags)
    assert main([*flags, "--output", str(tmp_path / "whole")]) == 0
    with killed_after(stop_at):
        main([*flags, "--output", str(tmp_path / "broken"), "--save-seconds", "0"])
    assert main(["--output", str(tmp_path / "broken"), "--resume"]) == 0
    models = [CompactModel.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "broken")]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_the_gradient_of_a_mask_is_that_of_its_weights(flags, monkeypatch):
    """dL/dz of a unit is the sum of w dL/dw over what it multiplies: what movement and importance scores rest on."""
    seen = {}
    real = scoring.mask_gradients

    def keep(session, model, masks):
        seen.update(session=session, model=model, first=next(real(session, model, masks)))
        return real(session, model, masks)

    monkeypatch.setattr(scoring, "mask_gradients", keep)
    assert main([*flags_of("fisher", flags), "--finetune-epochs", "0"]) == 0
    session, model = seen["session"], seen["model"].eval().requires_grad_(True)
    model.zero_grad()
    plan = scoring.BatchPlan(session.train.lengths, 1, seed=session.config.seed, epoch=0)
    batch = collate(session.train, plan.batch(0), session.device)
    model(batch=batch.packed, **batch.labels).loss.backward()
    for index, layer in enumerate(model.layers):
        for kind, weight, rows in (("head", layer.attention.w_out, 8), ("int", layer.ffn.w_down, 1)):
            sums = (weight * weight.grad).sum(1).view(-1, rows).sum(1).detach()
            assert torch.allclose(sums, seen["first"][kind][0, index], rtol=1e-4, atol=1e-7)


def test_an_unknown_method_and_one_out_of_reach_are_errors_of_one_line(flags, capsys):
    assert run_command(lambda: main([*flags, "--method", "lottery"])) == 2
    assert "--method must be one of cofi, drop-top-layers" in capsys.readouterr().err
    assert run_command(lambda: main([*flags, "--method", "prune-heads", "--sparsity", "0.9"])) == 2
    assert "--method prune-heads reaches at most sparsity" in capsys.readouterr().err
