"""Counter-based uniforms and dropout: the bits are the contract, so every comparison of values is exact."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cofi_kernels import counter_dropout, counter_uniform
from cofi_kernels.counter_rng import ranges, reference
from cofi_kernels.library import backends

# awkward: none, part of a Philox block, around a group of words, around what kernels make at once (512), a prime beyond
# a thread's share
SIZES = [0, 1, 3, 5, 15, 16, 17, 31, 33, 511, 512, 513, 40009]
# each 32-bit word of the state in use; negative words have their high bits set
STATES = [(0, 0), (123, 5), (-1, -1), (2**40 + 7, -(2**50))]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def philox_of_integers(key: list[int], counter: list[int]) -> list[int]:
    """Philox4x32-10 in unbounded integers: shares nothing with the package."""
    k, c = list(key), list(counter)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


# The known answers published with Random123, file kat_vectors: counter, key, output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_answers(counter, key, want):
    words = [[int(word, 16) for word in text.split()] for text in (counter, key, want)]
    tensors = [tuple(torch.tensor(word) for word in group) for group in words]
    assert [int(word) for word in reference.philox(tensors[1], tensors[0])] == words[2]
    assert philox_of_integers(words[1], words[0]) == words[2]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_words_are_philox_of_seed_block_and_offset(state):
    seed, offset = (value % 2**64 for value in state)
    index = [0, 1, 2, 3, 4, 2**32 - 1, 2**32, 2**34 - 1, 2**34, 3 * 2**40 + 12345, 2**63 - 2]
    got = reference.words_at(torch.tensor(state), torch.tensor(index)).tolist()
    for i, word in zip(index, got, strict=True):
        counter = [(i >> 2) % 2**32, i >> 34, offset % 2**32, offset >> 32]
        assert word == philox_of_integers([seed % 2**32, seed >> 32], counter)[i & 3]


@pytest.mark.parametrize("block", [0, 1, 2**32 - 1, 2**32, 2**61 - 1], ids=str)
def test_the_four_words_of_a_block_are_four_consecutive_elements(block):
    state = torch.tensor([2**40 + 7, -(2**50)])
    want = philox_of_integers([7, 2**8], [block % 2**32, block >> 32, 0, 2**32 - 2**18])
    elements = 4 * block + torch.arange(4)
    assert reference.block_words(state, torch.tensor(block)).tolist() == want
    assert reference.words_at(state, elements).tolist() == want
    assert reference.uniform_at(state, elements).tolist() == [((word >> 9) + 0.5) / 2**23 for word in want]


@given(first=st.integers(0, 2**40), n=st.integers(0, 40))
def test_a_range_is_its_elements_wherever_it_starts(first, n):
    state = torch.tensor([5, 6])
    assert torch.equal(reference.words_of_range(state, first, n), reference.words_at(state, first + torch.arange(n)))


def test_uniforms_are_odd_multiples_of_two_to_the_minus_24():
    state, index = torch.tensor([3, 9]), torch.arange(5000)
    steps = reference.words_at(state, index) >> 9
    assert torch.equal(reference.uniform_at(state, index).double(), (2 * steps + 1).double() * 2.0**-24)


def test_both_ends_of_the_uniforms_are_inside_the_interval():
    steps = torch.tensor([0, 2**23 - 1])
    u = (steps.float() + 0.5) * 2.0**-23
    assert (u > 0).all() and (u < 1).all() and torch.equal(1 - u, u.flip(0))


def test_uniforms_look_uniform():
    u = counter_uniform(torch.tensor([7, 0]), (200_000,)).double()
    counts = torch.histc(u, bins=64, min=0, max=1)
    chi_square = ((counts - 3125) ** 2 / 3125).sum().item()
    assert abs(u.mean().item() - 0.5) < 5 / math.sqrt(12 * 200_000)
    assert chi_square < 63 + 5 * math.sqrt(2 * 63)


@given(st.floats(0, 1, exclude_max=True))
def test_threshold_decides_as_comparing_u_with_p_would(p):
    threshold = reference.keep_threshold(p)
    u = [Fraction(2 * steps + 1, 2**24) for steps in (threshold - 1, threshold)]
    assert (threshold == 0 or u[0] < p) and (threshold == 2**23 or u[1] >= p)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", STATES, ids=str)
def test_native_uniforms_have_the_reference_bits(isa, state, size):
    got = counter_uniform(torch.tensor(state), (size,))
    assert torch.equal(got, reference.counter_uniform(torch.tensor(state), (size,)))


# every place in a Philox block to start from; where the index, and the number of its block, pass 32 bits
@pytest.mark.parametrize("first", [0, 1, 2, 3, 2**31 - 21, 2**32 - 20, 2**34 - 18, 2**40 + 3], ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 4, 30, 509, 512, 1100])
def test_native_uniforms_of_any_range_have_the_reference_bits(isa, first, n):
    state, index = torch.tensor([11, -3]), torch.arange(first, first + n)
    assert torch.equal(ranges.cpu.uniform_range(state, first, n), reference.uniform_at(state, index))
    assert torch.equal(ranges.keep_range(state, first, n, 0.3), reference.keep_at(state, index, 0.3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_native_dropout_has_the_reference_bits(isa, size, dtype):
    x, state = torch.randn(size).to(dtype), torch.tensor([11, -3])
    assert torch.equal(counter_dropout(x, 0.3, state), reference.counter_dropout(x, 0.3, state))


def test_native_dropout_rounds_bfloat16_as_torch_does(isa):
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)  # every value there is
    state = torch.tensor([1, 1])
    got, want = counter_dropout(x, 0.1, state), reference.counter_dropout(x, 0.1, state)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(), want.nan_to_num())


def test_result_does_not_depend_on_the_number_of_threads():
    before, state = torch.get_num_threads(), torch.tensor([5, 5])
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(counter_uniform(state, (100_003,)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7)], ids=str)
def test_uniform_of_any_shape_counts_row_major(device, backend, shape):
    state = torch.tensor([1, 2], device=device)
    got = counter_uniform(state, shape)
    assert got.shape == shape and got.dtype == torch.float32
    assert torch.equal(got.flatten(), reference.counter_uniform(state, (math.prod(shape),)))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (33, 5)], ids=str)
def test_dropout_keeps_scaled_elements_and_zeroes_the_rest(device, backend, shape):
    x, state, p = torch.randn(shape, device=device), torch.tensor([4, 2], device=device), 0.4
    kept = counter_uniform(state, shape) >= p
    assert torch.equal(counter_dropout(x, p, state), torch.where(kept, x * (1 / (1 - p)), 0.0))


def test_dropout_counts_the_elements_of_a_view_row_major(device, backend):
    x, state = torch.randn(6, 10, device=device), torch.tensor([4, 2], device=device)
    got = counter_dropout(x.t(), 0.5, state)
    assert got.is_contiguous() and torch.equal(got, counter_dropout(x.t().contiguous(), 0.5, state))


def test_dropped_elements_hide_what_is_not_finite(device, backend):
    x, state = torch.full((4000,), float("nan"), device=device), torch.tensor([4, 2], device=device)
    y = counter_dropout(x, 0.5, state)
    assert torch.equal(y.isnan(), reference.keep_at(state, torch.arange(4000, device=device), 0.5))
    assert (y[~y.isnan()] == 0).all()


def test_dropout_with_probability_zero_is_the_identity(device):
    x = torch.randn(5, device=device)
    assert counter_dropout(x, 0.0, torch.tensor([1, 1], device=device)) is x


def test_gradient_recomputes_the_mask_of_the_forward(device, backend):
    x = torch.randn(41, 3, device=device, requires_grad=True)
    state, dy = torch.tensor([8, 1], device=device), torch.randn(41, 3, device=device)
    (dx,) = torch.autograd.grad(counter_dropout(x, 0.3, state), x, dy)
    kept = counter_uniform(state, (41, 3)) >= 0.3
    assert torch.equal(dx, torch.where(kept, dy * (1 / 0.7), 0.0))


def test_gradient_is_that_of_finite_differences(backend):
    x, state = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.tensor([8, 1])
    assert torch.autograd.gradcheck(counter_dropout, (x, 0.3, state))
    assert torch.autograd.gradgradcheck(counter_dropout, (x, 0.3, state))


def test_nothing_of_the_size_of_x_is_saved(device):
    saved = []
    x, state = torch.randn(1000, device=device, requires_grad=True), torch.tensor([1, 2], device=device)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        counter_dropout(x, 0.1, state)
    assert saved == [2]


def test_compiles_without_graph_break(device):
    x, state = torch.randn(7, 5, device=device, requires_grad=True), torch.tensor([6, 6], device=device)

    def step(x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return counter_dropout(x * 2, 0.2, state) + counter_uniform(state, (7, 5))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, state), step(x, state))
    want = torch.autograd.grad(step(x, state).sum(), x)
    assert torch.equal(*torch.autograd.grad(compiled(x, state).sum(), x), *want)


def test_registered_ops_obey_the_contract_of_pytorch(device, backend):
    state, ops = torch.tensor([1, 2], device=device), torch.ops.cofi_kernels
    x = torch.randn(4, 5, device=device, requires_grad=True)
    torch.library.opcheck(ops.counter_uniform.default, (state, [3, 4]))
    torch.library.opcheck(ops.counter_dropout.default, (x, 0.3, state))
    torch.library.opcheck(ops.counter_dropout.default, (x.t(), 0.3, state))


def test_backends_names_both_ops():
    chosen = {(choice.op, choice.device): choice for choice in backends()}
    for op in ("counter_uniform", "counter_dropout"):
        choice = chosen[op, "cpu"]
        assert choice.backend == "cpu" or "_C" in dict(choice.passed_over)["cpu"]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "x must be one of .* got torch.int64", lambda s: counter_dropout(torch.zeros(3).long(), 0.1, s)),
        (ValueError, r"p must be in \[0.0, 1.0\), got 1.0", lambda s: counter_dropout(torch.zeros(3), 1.0, s)),
        (ValueError, r"p must be in \[0.0, 1.0\), got -0.1", lambda s: counter_dropout(torch.zeros(3), -0.1, s)),
        (ValueError, "p must be in .* got nan", lambda s: counter_dropout(torch.zeros(3), float("nan"), s)),
        (TypeError, "state must be .*int64, got torch.int32", lambda s: counter_dropout(torch.zeros(3), 0.1, s.int())),
        (ValueError, r"state must have shape \(2\), got \(1,\)", lambda s: counter_uniform(s[:1], (3,))),
        (ValueError, "share a device, got cpu and meta", lambda s: counter_dropout(torch.zeros(3), 0.1, s.to("meta"))),
        (ValueError, r"no negative size, got \(3, -1\)", lambda s: counter_uniform(s, (3, -1))),
    ],
)
def test_wrong_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call(torch.tensor([1, 2]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("module", ["triton_kernels", "cuda"])
def test_gpu_kernels_have_the_reference_bits(module, dtype):
    kernels = pytest.importorskip(f"cofi_kernels.counter_rng.{module}")
    for state in STATES:
        for size in SIZES:
            on_cpu, on_gpu = torch.tensor(state), torch.tensor(state, device="cuda")
            x = torch.randn(size + 1).to(dtype)[1:]  # one element off the alignment of 16 bytes
            want = reference.counter_dropout(x, 0.3, on_cpu)
            assert torch.equal(
                kernels.counter_uniform(on_gpu, (size,)).cpu(), reference.counter_uniform(on_cpu, (size,))
            )
            assert torch.equal(kernels.counter_dropout(x.cuda(), 0.3, on_gpu).cpu(), want)
