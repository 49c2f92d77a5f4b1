"""The Triton kernels: in the interpreter (or on a GPU) bit for bit, and compiled for each architecture."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels.counter_rng import reference
from tests.kernels import aot

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
from cofi_kernels.counter_rng import triton_kernels  # noqa: E402
from tests.kernels import launches  # noqa: E402

STATES = [(0, 0), (123, 5), (-1, -1), (2**40 + 7, -(2**50))]
SIZES = [0, 1, 6, 1023, 1025]
# not bf16: the interpreter truncates where the compiler rounds. On a GPU test_counter_rng.py covers it.
DTYPES = [torch.float32, torch.float16, torch.float64]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", STATES, ids=str)
def test_uniforms_have_the_reference_bits(device, state, size):
    got = triton_kernels.counter_uniform(torch.tensor(state, device=device), (size,))
    assert torch.equal(got.cpu(), reference.counter_uniform(torch.tensor(state), (size,)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_dropout_has_the_reference_bits(device, size, dtype):
    x, state = torch.randn(size).to(dtype), torch.tensor([11, -3])
    got = triton_kernels.counter_dropout(x.to(device), 0.3, state.to(device))
    assert torch.equal(got.cpu(), reference.counter_dropout(x, 0.3, state))


@triton.jit
def _words_kernel(state_ptr, first_ptr, word_ptr, N: tl.constexpr):
    word = triton_kernels.element_words(tl.load(state_ptr), tl.load(state_ptr + 1), tl.load(first_ptr), N)
    tl.store(word_ptr + tl.arange(0, N), word.to(tl.int64))


# where the index, and the number of its Philox block, pass 31, 32 and 63 bits
@pytest.mark.parametrize("first", [0, 4, 2**31 - 8, 2**32 - 8, 2**34 - 8, 3 * 2**40 + 12344, 2**63 - 16], ids=str)
@pytest.mark.parametrize("state", STATES, ids=str)
def test_words_of_elements_far_out_have_the_reference_bits(device, state, first):
    words = torch.zeros(16, dtype=torch.int64, device=device)
    _words_kernel[(1,)](torch.tensor(state, device=device), torch.tensor([first], device=device), words, 16)
    assert torch.equal(words.cpu(), reference.words_at(torch.tensor(state), first + torch.arange(16)))


# elements: the states of BERT-base on 4,096 tokens, and a number that is no multiple of 16
STATES_OF_BASE, RAGGED = 4096 * 768, 4095 * 761
LAUNCHED = [(dtype, STATES_OF_BASE) for dtype in (torch.bfloat16, torch.float16, torch.float64)]
LAUNCHED += [(torch.float32, RAGGED)]


def launch(dtype: torch.dtype, n: int) -> None:
    """Uniforms and dropout. The state is one row of a model's."""
    state = torch.empty(36, 2, dtype=torch.int64, device="meta")[1]
    triton_kernels.counter_uniform(state, (n,))
    triton_kernels.counter_dropout(torch.empty(n, dtype=dtype, device="meta"), 0.1, state)


def test_every_kernel_compiles_for_every_architecture_without_spills():
    cases = []
    for architecture in aot.ARCHITECTURES:
        cases += launches.distinct(launches.of_layers(architecture, ((c, "kernel") for c in LAUNCHED), launch))
    assert len(cases) == (2 + len(LAUNCHED)) * len(aot.ARCHITECTURES)
    for report in aot.compile_cases(cases):
        aot.assert_fits(report)
        assert report.registers <= 64, report  # 8 elements a thread: leaves 8 blocks of 128 threads to a multiprocessor
