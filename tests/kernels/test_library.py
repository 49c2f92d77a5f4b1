"""Which implementation of an op runs."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels.library import Implementation, _Op


def op_of(*implementations: Implementation) -> _Op:
    return _Op("op", lambda x: "reference", implementations)


def test_a_call_that_an_implementation_declines_goes_to_the_reference_and_says_so_once(recwarn):
    def declines(x: torch.Tensor) -> str | None:
        return "not in fp64" if x.dtype == torch.float64 else None

    op = op_of(Implementation("fast", "cpu", lambda: lambda x: "fast", lambda: None, declines))
    assert op.call("cpu", torch.zeros(1)) == "fast" and not recwarn
    assert op.call("cpu", torch.zeros(1).double()) == "reference"
    assert "op runs on 'reference' instead of 'fast': not in fp64" in str(recwarn.pop(RuntimeWarning).message)
    assert op.call("cpu", torch.zeros(1).double()) == "reference" and not recwarn
    assert op.call("cpu", torch.zeros(1)) == "fast"


@pytest.mark.parametrize("device, backend", [("cpu", "second"), ("cuda", "reference")])
def test_the_first_that_can_run_is_taken(device, backend):
    op = op_of(
        Implementation("first", "cpu", lambda: lambda x: "first", lambda: "no reason to be told twice"),
        Implementation("second", "cpu", lambda: lambda x: "second", lambda: None),
    )
    choice, load = op.choose(device)
    assert choice.backend == backend and load()(None) == backend
