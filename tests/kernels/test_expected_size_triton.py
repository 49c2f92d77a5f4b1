"""The Triton kernels: in the interpreter (or on a GPU) against fp64, and compiled for each architecture."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels.expected_size import reference
from cofi_kernels.testing import assert_close_to_fp64
from tests.kernels import aot
from tests.kernels.test_expected_size import COSTS, KINDS, SIZES, SUBSETS, inputs_of, sizes_of

pytest.importorskip("triton")
from cofi_kernels.expected_size import triton_kernels  # noqa: E402


def assert_matches_reference(inputs, sizes) -> None:
    """Value and every gradient, in fp32 against fp64; the gradients of absent kinds are empty."""
    probabilities = [inputs[name] for name in KINDS]
    device = next(p.device for p in probabilities if p is not None)
    exact = [None if p is None else p.double() for p in probabilities]
    rest = (*COSTS.values(), *sizes.values())
    assert_close_to_fp64(triton_kernels.forward(*probabilities, *rest), reference.forward(*exact, *rest))
    dsize = torch.tensor(-0.3, device=device)
    got = triton_kernels.backward(dsize, *probabilities, *rest)
    want = reference.backward(dsize.double(), *exact, *rest)
    for name, dp, expected in zip(KINDS, got, want, strict=True):
        assert dp.dtype == torch.float32
        assert_close_to_fp64(dp, expected, name=f"gradient of {name}")


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_value_and_gradients_match_fp64_for_every_subset(device, subset):
    assert_matches_reference(inputs_of(subset, SIZES, device), SIZES)


# single units, none at all, more units and more hidden dims than a block holds, and BERT-base
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (2, 0, 0, 5), (5, 3, 37, 23), (3, 2, 8195, 8197), (12, 12, 3072, 768)], ids=str
)
def test_value_and_gradients_match_fp64_at_every_size(device, sizes):
    named = sizes_of(*sizes)
    assert_matches_reference(inputs_of(KINDS, named, device), named)


def test_fp64_keeps_its_digits(device):
    probabilities = [p.double() for p in inputs_of(KINDS, SIZES, device).values()]
    rest = (1 / 3, 1 / 7, *SIZES.values())
    got, want = (module.forward(*probabilities, *rest) for module in (triton_kernels, reference))
    torch.testing.assert_close(got, want, rtol=1e-14, atol=0)


def test_strided_probabilities_are_read_in_place_of_their_memory(device):
    inputs = inputs_of(KINDS, SIZES, device)
    inputs["p_int"] = inputs["p_int"].t().contiguous().t()
    assert_matches_reference(inputs, SIZES)


SCALARS = {
    "head_bits": "i64",
    "int_bits": "i64",
    **dict.fromkeys(("n_hidden", "n_layers", "n_heads", "n_int"), "i32"),
}


def cases_of(*present: str) -> list[aot.Case]:
    """Forward and backward with the kinds that are present."""
    probabilities = {f"{name}_ptr": "*fp32" if name in present else None for name in KINDS}
    gradients = {f"d{name}": kind for name, kind in probabilities.items()}
    module = "cofi_kernels.expected_size.triton_kernels:"
    forward = {**probabilities, "size_ptr": "*fp32", **SCALARS, "BLOCK": triton_kernels._FORWARD_BLOCK}
    backward = {"dsize_ptr": "*fp32", **probabilities, **gradients, **SCALARS, "BLOCK": triton_kernels._BACKWARD_BLOCK}
    return [
        aot.Case(module + "_expected_size_fwd_kernel", forward, {"num_warps": triton_kernels._FORWARD_WARPS}),
        aot.Case(module + "_expected_size_bwd_kernel", backward, {"num_warps": triton_kernels._BACKWARD_WARPS}),
    ]


def test_every_kernel_compiles_for_every_architecture_without_spills():
    for report in aot.compile_cases([*cases_of(*KINDS), *cases_of("p_head", "p_int"), *cases_of("p_mha", "p_ffn")]):
        aot.assert_fits(report)
