"""A whole run with the kernels and by the definition: losses within fp32 noise, the same structure and scores."""

from __future__ import annotations

import json

import pytest
import torch

from cofi.train.__main__ import main
from cofi_kernels import force_backend
from cofi_kernels.native import load_native
from tests.train.test_run import read_lines

# Differences of 1e-7 a sum grow over some 30 steps of Adam, which divides by the root of a small number. The largest
# seen is below a tenth of this.
LOSS_TOLERANCE = 1e-4
COMPARED = ("loss", "layer_loss", "prediction_loss", "lagrangian_loss", "expected_sparsity", "lambda_1", "lambda_2")


@pytest.fixture(scope="module")
def by_definition(checkpoint, data, tmp_path_factory):
    from tests.tiny_run import run_flags

    run = tmp_path_factory.mktemp("reference") / "run"
    with force_backend("reference"):
        assert main(run_flags(checkpoint, data, run)) == 0
    return run


def assert_same_run(got, want):
    rows, expected = read_lines(got / "metrics.jsonl"), read_lines(want / "metrics.jsonl")
    assert len(rows) == len(expected)
    compared = 0
    for row, other in zip(rows, expected, strict=True):
        assert (row["type"], row["phase"], row.get("step")) == (other["type"], other["phase"], other.get("step"))
        for name in COMPARED:
            if other.get(name) is not None:
                assert row[name] == pytest.approx(other[name], rel=LOSS_TOLERANCE, abs=1e-6), (name, row)
                compared += 1
    assert compared > 100
    results = [json.loads((run / "result.json").read_text()) for run in (got, want)]
    for name in ("teacher_score", "masked_score", "compact_score", "sparsity", "structure", "params_after"):
        assert results[0][name] == results[1][name], name


def test_kernels_give_the_losses_of_the_definition(flags, tmp_path, by_definition):
    assert main(flags) == 0
    assert_same_run(tmp_path / "run", by_definition)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"], indirect=True)
def test_so_does_every_instruction_set(isa, flags, tmp_path, by_definition):
    assert main(flags) == 0
    assert_same_run(tmp_path / "run", by_definition)


@pytest.fixture
def isa(request):
    native = load_native()
    if native is None:
        pytest.skip("the compiled module is not installed")
    native.limit_isa(request.param)
    try:
        if native.isa() != request.param:
            pytest.skip(f"this processor has no {request.param}")
        yield request.param
    finally:
        native.limit_isa("amx")


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing_that_shows(flags, tmp_path, by_definition, threads):
    before = torch.get_num_threads()
    try:
        assert main([*flags, "--threads", str(threads)]) == 0
    finally:
        torch.set_num_threads(before)
    assert_same_run(tmp_path / "run", by_definition)
