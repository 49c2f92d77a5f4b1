"""The C++ encoder: every instruction set, thread counts, random structures, packed weights that change, hard values."""

from __future__ import annotations

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cofi_kernels import EncoderLayout, compact_encoder, force_backend
from cofi_kernels.compact_encoder import packed
from cofi_kernels.compact_encoder.layout import weight_shapes
from cofi_kernels.native import load_native, why_not_native
from cofi_kernels.testing import assert_close_to_fp64

pytestmark = pytest.mark.skipif(load_native() is None, reason=str(why_not_native()))

LAYOUT = EncoderLayout(
    heads=(3, 0, 2, 0),
    intermediate=(77, 0, 513, 0),
    mha=(True, False, True, True),
    ffn=(True, False, True, True),
    head_dim=16,
    eps=1e-12,
    activation="gelu",
)
HIDDEN = 83


def weights_of(layout: EncoderLayout, n_hidden: int) -> list[Tensor]:
    return [
        torch.empty(0) if shape is None else torch.randn(shape) / max(shape[-1], 1) ** 0.5
        for shape in weight_shapes(layout, n_hidden)
    ]


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@torch.no_grad()
def run(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout = LAYOUT) -> Tensor:
    return compact_encoder(x, bounds(lengths), max(lengths, default=0), weights, layout)


def in_fp64(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout = LAYOUT) -> Tensor:
    with force_backend("reference"):
        return run(x.double(), lengths, [w.double() for w in weights], layout)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def limit_isa():
    native = load_native()
    yield native.limit_isa
    native.limit_isa("amx")


@pytest.mark.parametrize("threads", [1, 2, 4], indirect=True)
def test_every_instruction_set_and_thread_count(isa, threads):
    """Long and short sequences: chunks that are cut, sequences that threads share, more than one block of queries."""
    lengths = [130, 1, 0, 17, 512, 3, 250]
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    assert_close_to_fp64(run(x, lengths, weights), in_fp64(x, lengths, weights))


# with tiles, fp32 products are made of pieces from 192 tokens on
@pytest.mark.parametrize("lengths", [[63], [191], [192], [193], [1, 190], [30, 0, 162], [191, 129, 2]], ids=str)
def test_few_and_many_tokens(isa, lengths):
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    assert_close_to_fp64(run(x, lengths, weights), in_fp64(x, lengths, weights))


def test_pieces_are_for_many_tokens_alone(limit_isa):
    """Few have the bits that AVX-512 gives them."""
    if not load_native().has_amx():
        pytest.skip("this processor has no amx")
    weights = weights_of(LAYOUT, HIDDEN)
    few, many = torch.randn(191, HIDDEN), torch.randn(192, HIDDEN)
    on_tiles = [run(x, [len(x)], weights) for x in (few, many)]
    limit_isa("avx512")
    weights = [w.clone() for w in weights]
    by_vectors = [run(x, [len(x)], weights) for x in (few, many)]
    assert torch.equal(on_tiles[0], by_vectors[0]) and not torch.equal(on_tiles[1], by_vectors[1])


@pytest.mark.parametrize("packs", ["amx", "avx512", "portable"])
@pytest.mark.parametrize("runs", ["amx", "avx512", "avx2", "portable"])
def test_packed_weights_serve_every_instruction_set(limit_isa, packs, runs):
    """Pieces have a portable version for this alone; without them the usual products go on."""
    cases = [(LAYOUT, HIDDEN, [17, 70, 3]), (LAYOUT, HIDDEN, [5])]
    cases += [(layout, hidden, [*lengths, 192]) for layout, hidden, lengths in map(random_case, range(20))]
    for layout, hidden, lengths in cases:
        x, weights = torch.randn(sum(lengths), hidden), weights_of(layout, hidden)
        limit_isa(packs)
        run(x, lengths, weights, layout)
        known = packed.find_packed(x, weights, layout)
        limit_isa(runs)
        assert_close_to_fp64(run(x, lengths, weights, layout), in_fp64(x, lengths, weights, layout))
        assert packed.find_packed(x, weights, layout) is known


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations(isa, activation):
    layout = replace(LAYOUT, activation=activation)
    x, weights = 3 * torch.randn(21, HIDDEN), weights_of(layout, HIDDEN)
    assert_close_to_fp64(run(x, [21], weights, layout), in_fp64(x, [21], weights, layout))


def random_case(seed: int) -> tuple[EncoderLayout, int, list[int]]:
    rng = random.Random(seed)
    n_layers = rng.randint(0, 4)
    mha, ffn = ([rng.random() < 0.7 for _ in range(n_layers)] for _ in range(2))
    layout = EncoderLayout(
        heads=tuple(rng.randint(0, 4) if kept else 0 for kept in mha),
        intermediate=tuple(rng.randint(0, 70) if kept else 0 for kept in ffn),
        mha=tuple(mha),
        ffn=tuple(ffn),
        head_dim=rng.choice([1, 7, 8, 32, 64]),
        eps=1e-5,
        activation=rng.choice(["gelu", "gelu_new", "relu"]),
    )
    # fewer hidden dims than nine make a LayerNorm that magnifies roundings
    return layout, rng.choice([9, 15, 16, 17, 48, 95]), [rng.randint(0, 40) for _ in range(rng.randint(0, 6))]


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_random_structures(isa, first):
    for seed in range(first, first + 100):
        torch.manual_seed(seed)
        layout, hidden, lengths = random_case(seed)
        x, weights = torch.randn(sum(lengths), hidden), weights_of(layout, hidden)
        assert_close_to_fp64(
            run(x, lengths, weights, layout), in_fp64(x, lengths, weights, layout), name=f"structure {seed}"
        )


def test_weights_are_packed_again_after_a_change():
    x, weights = torch.randn(9, HIDDEN), weights_of(LAYOUT, HIDDEN)
    before = run(x, [9], weights)
    assert packed.find_packed(x, weights, LAYOUT) is not None
    torch.testing.assert_close(run(x, [9], weights), before, rtol=0, atol=0)
    weights[0].mul_(2.0)  # in place
    assert packed.find_packed(x, weights, LAYOUT) is None
    assert_close_to_fp64(run(x, [9], weights), in_fp64(x, [9], weights))
    weights[8] = torch.randn_like(weights[8])  # another tensor, not the first
    assert_close_to_fp64(run(x, [9], weights), in_fp64(x, [9], weights))
    other = replace(LAYOUT, eps=0.1)  # the same weights, read in another way
    assert_close_to_fp64(run(x, [9], weights, other), in_fp64(x, [9], weights, other))


def test_writes_that_pytorch_does_not_count_are_noticed():
    """A fused optimizer and `.data` leave a tensor's version as it is."""
    x, weights = torch.randn(9, HIDDEN), weights_of(LAYOUT, HIDDEN)
    run(x, [9], weights)
    versions = [w._version for w in weights]
    trained = torch.nn.Parameter(weights[8])
    trained.grad = torch.randn_like(trained)
    torch.optim.AdamW([trained], lr=0.1, fused=True).step()
    assert [w._version for w in weights] == versions
    assert_close_to_fp64(run(x, [9], weights), in_fp64(x, [9], weights))
    weights[1].data.mul_(3.0)
    assert [w._version for w in weights] == versions
    assert_close_to_fp64(run(x, [9], weights), in_fp64(x, [9], weights))


def test_weights_that_are_not_contiguous():
    x, weights = torch.randn(9, HIDDEN), weights_of(LAYOUT, HIDDEN)
    weights[8] = weights[8].t().contiguous().t()
    for _ in range(2):
        assert_close_to_fp64(run(x, [9], weights), in_fp64(x, [9], weights))
        weights[8].mul_(2.0)


def test_packed_weights_go_with_the_weights():
    gc.collect()
    before = len(packed._known)
    weights = weights_of(LAYOUT, HIDDEN)
    run(torch.randn(2, HIDDEN), [2], weights)
    assert len(packed._known) == before + 1
    del weights
    gc.collect()
    assert len(packed._known) == before


def test_empty_weights_made_in_inference_mode_do_not_matter():
    """A model fills in those of removed sublayers at every call."""
    x, weights = torch.randn(5, HIDDEN), weights_of(LAYOUT, HIDDEN)
    run(x, [5], weights)
    with torch.inference_mode():
        weights = [w if w.numel() else torch.empty(0) for w in weights]
        assert packed.find_packed(x, weights, LAYOUT) is not None


def test_weights_of_inference_mode_may_change():
    """Such tensors count no changes, so nothing is remembered."""
    x = torch.randn(5, HIDDEN)
    with torch.inference_mode():
        weights = weights_of(LAYOUT, HIDDEN)
        run(x, [5], weights)
        weights[0].zero_()
        got = run(x, [5], weights)
    assert_close_to_fp64(got, in_fp64(x, [5], weights))


def test_python_threads_at_once():
    lengths = [40, 3, 77]
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    want = run(x, lengths, weights)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: run(x, lengths, weights), range(64)):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


# 70 tokens: three threads and more share the columns of products, fewer the rows; with tiles products of 192 tokens and
# more are made of pieces, however few tokens a chunk has: about 128 a thread
@pytest.mark.parametrize("lengths", [[90, 35], [70], [30, 33], [128] * 8, [128] * 2, [64] * 5, [150, 50, 150]], ids=str)
def test_result_does_not_depend_on_threads(isa, lengths):
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(run(x, lengths, weights))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_nan_stays_in_its_sequence():
    x, weights = torch.randn(12, HIDDEN), weights_of(LAYOUT, HIDDEN)
    want = run(x, [5, 7], weights)
    x[2, 3] = float("nan")
    got = run(x, [5, 7], weights)
    assert got[:5].isnan().all()
    torch.testing.assert_close(got[5:], want[5:], rtol=0, atol=0)


def test_rejects_bounds_after_packing():
    """The second call takes the short way past the dispatcher: it checks too."""
    x, weights = torch.randn(4, HIDDEN), weights_of(LAYOUT, HIDDEN)
    run(x, [4], weights)
    with torch.no_grad(), pytest.raises(ValueError, match="cu_seqlens must start at 0 and end at 4 tokens"):
        compact_encoder(x, bounds([5]), 5, weights, LAYOUT)
    with torch.no_grad(), pytest.raises(ValueError, match="cu_seqlens must ascend"):
        compact_encoder(x, torch.tensor([0, 5, 4], dtype=torch.int32), 5, weights, LAYOUT)


@torch.no_grad()
def test_overwrites_x_where_it_may():
    lengths, weights = [3, 17, 1], weights_of(LAYOUT, HIDDEN)
    x = torch.randn(sum(lengths), HIDDEN)
    kept, want = x.clone(), run(x, lengths, weights)
    assert torch.equal(x, kept)
    got = compact_encoder(x, bounds(lengths), max(lengths), weights, LAYOUT, overwrite_x=True)
    assert torch.equal(got, want) and got.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_weights_that_are_packed_are_refused_to_x_of_another_type(dtype: torch.dtype) -> None:
    x, weights = torch.randn(9, HIDDEN), weights_of(LAYOUT, HIDDEN)
    run(x, [4, 5], weights)
    with pytest.raises(TypeError, match="weights"):
        run(x.to(dtype), [4, 5], weights)


def test_a_weight_of_the_same_memory_is_another_weight() -> None:
    """Transposed, or a part of it: address and count of writes are the same."""
    layout = EncoderLayout((2,), (0,), (True,), (False,), HIDDEN, 1e-12, "gelu")  # w_out is square
    layout = replace(layout, heads=(1,))
    x, weights = torch.randn(9, HIDDEN), weights_of(layout, HIDDEN)
    run(x, [4, 5], weights, layout)
    transposed = [*weights[:2], weights[2].t(), *weights[3:]]
    found = run(x, [4, 5], transposed, layout)
    assert_close_to_fp64(found, in_fp64(x, [4, 5], transposed, layout))
    with pytest.raises(ValueError, match="w_out"):
        run(x, [4, 5], [*weights[:2], weights[2][:40], *weights[3:]], layout)
