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
from tests.kernels import launches  # noqa: E402


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


# sizes; the kinds that are pruned
MODELS = {
    "BERT-base": ((12, 12, 3072, 768), KINDS),
    "BERT-large, heads and intermediate dims": ((24, 16, 4096, 1024), ("p_head", "p_int")),
    "MiniLM, layers": ((6, 12, 1536, 384), ("p_mha", "p_ffn")),  # whose parts do not all lie at multiples of 16 bytes
}


def launch(sizes: tuple[int, int, int, int], kinds: tuple[str, ...]) -> None:
    """Forward and backward. Probabilities are parts of one vector, as those of gates are."""
    n_layers, n_heads, n_int, n_hidden = sizes
    lengths = {"p_head": n_layers * n_heads, "p_int": n_layers * n_int, "p_hidden": n_hidden}
    lengths |= {"p_mha": n_layers, "p_ffn": n_layers}
    lengths = {name: length for name, length in lengths.items() if name in kinds}
    vector = torch.empty(sum(lengths.values()), device="meta")
    parts = dict(zip(lengths, vector.split(list(lengths.values())), strict=True))
    given, named = [parts.get(name) for name in KINDS], sizes_of(*sizes)
    size = triton_kernels.forward(*given, *COSTS.values(), *named.values())
    triton_kernels.backward(size, *given, *COSTS.values(), *named.values())


def test_every_kernel_compiles_for_every_architecture_without_spills():
    cases = []
    for architecture in aot.ARCHITECTURES:
        cases += launches.distinct(launches.of_layers(architecture, ((m, "kernel") for m in MODELS.values()), launch))
    assert len(cases) == 2 * len(MODELS) * len(aot.ARCHITECTURES)  # sizes of models are data
    assert any("p_ffn_ptr" in case.unaligned for case in cases)
    for report in aot.compile_cases(cases):
        aot.assert_fits(report)
