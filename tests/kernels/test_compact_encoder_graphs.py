"""Buckets, and the keeping of captured graphs, with captures that need no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cofi_kernels.compact_encoder.graphs import Bucket, Graphs, bucket_of, spare_lengths
from tests.kernels.captures import Captures
from tests.kernels.threads import in_threads


@pytest.mark.parametrize("n_sequences", [1, 2, 3, 8, 31, 128])
@pytest.mark.parametrize("n_tokens", [1, 15, 16, 17, 128, 129, 1000, 1024, 16384, 16385])
@pytest.mark.parametrize("max_seqlen", [1, 16, 39, 100])
def test_what_is_to_spare_fits_into_the_sequences_to_spare(n_sequences, n_tokens, max_seqlen):
    bucket = bucket_of(n_sequences, n_tokens, max_seqlen, 100)
    spare_sequences, spare_tokens = bucket.n_sequences - n_sequences, bucket.n_tokens - n_tokens
    assert (spare_sequences > 0) == (spare_tokens > 0)
    lengths = spare_lengths(spare_sequences, spare_tokens, bucket.max_seqlen)
    assert len(lengths) == spare_sequences and sum(lengths) == spare_tokens
    assert max(lengths, default=0) <= bucket.max_seqlen and lengths == sorted(lengths)
    assert max_seqlen <= bucket.max_seqlen <= 100
    assert spare_tokens <= max(16, n_tokens / 8 + 16)


def test_sizes_on_a_boundary_have_nothing_to_spare():
    assert bucket_of(8, 1024, 128, 512) == Bucket(8, 1024, 128)
    assert bucket_of(1, 128, 128, 512) == Bucket(1, 128, 128)


def test_buckets_are_few():
    """13 sizes with something to spare, and as many that fit."""
    assert len({bucket_of(32, n_tokens, 128, 512) for n_tokens in range(641, 1921)}) <= 26


def test_spare_tokens_that_fit_nowhere_are_refused():
    with pytest.raises(ValueError, match="2 sequences of at most 16 tokens cannot hold 33"):
        spare_lengths(2, 33, 16)


def double(inputs: Tensor, bucket: Bucket) -> tuple[Tensor, ...]:
    return inputs * 2, inputs + bucket.n_tokens


def call(graphs: Graphs, size: int, value: int) -> tuple[Tensor, ...]:
    return graphs(Bucket(1, size, 16), torch.full((size,), value))


def test_a_bucket_is_captured_once_and_computes_each_call():
    captures = Captures()
    graphs = Graphs(double, 2, captures)
    first, second = call(graphs, 4, 1), call(graphs, 4, 5)
    assert [out.tolist() for out in first] == [[2] * 4, [5] * 4]  # copies: the second replay left them alone
    assert [out.tolist() for out in second] == [[10] * 4, [9] * 4]
    assert captures.sizes == [4]


def test_the_graph_used_longest_ago_goes_first():
    captures = Captures()
    graphs = Graphs(double, 2, captures)
    for size in (4, 8, 4, 16, 4, 8):
        call(graphs, size, 1)
    assert captures.sizes == [4, 8, 16, 8]
    assert [bucket.n_tokens for bucket in graphs.buckets] == [4, 8]
    graphs.clear()
    assert graphs.buckets == ()


def test_threads_take_turns():
    graphs, wrong = Graphs(double, 2, Captures()), []

    def work(value: int) -> None:
        for i in range(30):
            out, _ = call(graphs, 4 + 4 * (i % 3), value)
            wrong.extend(out[out != 2 * value].tolist())

    in_threads(work, range(4))
    assert wrong == []


def test_buffers_outlive_the_inference_mode_they_were_made_in():
    graphs = Graphs(double, 2, Captures())
    with torch.inference_mode():
        call(graphs, 4, 1)
    assert call(graphs, 4, 3)[0].tolist() == [6] * 4


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit must be positive, got 0"):
        Graphs(double, 0)
