"""Copies of weights that are kept: who may find one, and when; what a capture may do."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder import kept
from cofi_kernels.compact_encoder.cuda import PersistentEncoder
from cofi_kernels.compact_encoder.kept import KeptCopies
from tests.kernels.encoders import HIDDEN, ONE, weights_of

SOON_S, LATE_S = 0.2, 20.0  # what a thread that waits is given to go on by mistake, and to go on at all


class Doubled:
    """A copy of the first weight, times two. Counts what was done."""

    made = filled = 0

    def __init__(self, weights: Sequence[Tensor], layout: EncoderLayout, n_hidden: int, *how: Any) -> None:
        type(self).made += 1
        self.how, self.twice = how, weights[0] * 2

    def fill(self, weights: Sequence[Tensor]) -> None:
        type(self).filled += 1
        self.twice.copy_(weights[0] * 2)

    def tensors(self) -> list[Tensor]:
        return [self.twice]


@pytest.fixture
def copies() -> KeptCopies[Doubled]:
    Doubled.made = Doubled.filled = 0
    return KeptCopies(Doubled)


@pytest.fixture
def weights() -> list[Tensor]:
    return weights_of(ONE, HIDDEN, "cpu", torch.float16)


X = torch.zeros(1, HIDDEN).half()


def test_a_copy_is_kept_for_what_it_was_made_for(copies, weights):
    first = copies.find(X, weights, ONE, 1)
    assert copies.find(X, weights, ONE, 1) is first and copies.find(X, weights, ONE, 2).how == (2,)
    assert (Doubled.made, Doubled.filled) == (2, 0)


def test_encoders_that_share_their_first_weight_have_copies_of_their_own(copies, weights):
    """A graph may read the one while the other is filled."""
    others = [weights[0], *(w.clone() for w in weights[1:])]
    first, second = copies.find(X, weights, ONE), copies.find(X, others, ONE)
    others[-1] += 1
    assert copies.find(X, others, ONE) is second is not first
    assert (Doubled.made, Doubled.filled) == (2, 1)


def test_a_copy_goes_with_the_first_of_its_weights_to_go(copies, weights):
    """Otherwise those of temporaries would pile up, and a weight of the same id be taken for one that is gone."""
    left = []
    for _ in range(3):
        temporaries = [weights[0], *(w.clone() for w in weights[1:])]
        left.append(weakref.ref(copies.find(X, temporaries, ONE)))
        copies.find(X, temporaries, ONE)
    assert [copy() is None for copy in left] == [True, True, False]
    del temporaries[-1]
    assert left[-1]() is None and Doubled.made == 3


def test_a_copy_that_was_filled_goes_with_its_weights(copies, weights):
    left = weakref.ref(copies.find(X, weights, ONE))
    weights[0] += 1
    copies.find(X, weights, ONE)
    assert left() is not None and Doubled.filled == 1
    weights.clear()
    assert left() is None


@pytest.mark.parametrize("is_filled", [False, True], ids=["made", "filled"])
def test_a_copy_is_found_only_when_it_is_complete(copies, weights, monkeypatch, is_filled):
    """The first thread is held where it waits for the device; the second must not get what is still being written."""
    if is_filled:
        copies.find(X, weights, ONE)
        weights[0] += 1
    waits, goes_on = threading.Event(), threading.Event()

    def hold(device: torch.device) -> None:
        waits.set()
        assert goes_on.wait(LATE_S)

    monkeypatch.setattr(kept, "wait_for", hold)
    found: list[Doubled] = []
    threads = [threading.Thread(target=lambda: found.append(copies.find(X, weights, ONE))) for _ in range(2)]
    threads[0].start()
    assert waits.wait(LATE_S)
    threads[1].start()
    threads[1].join(SOON_S)
    assert found == []
    goes_on.set()
    for thread in threads:
        thread.join(LATE_S)
    assert found[0] is found[1] and torch.equal(found[0].twice, weights[0] * 2)
    assert (Doubled.made, Doubled.filled) == (1, int(is_filled))


@pytest.mark.parametrize("change", [lambda w: w.add_(1), lambda w: w.data.add_(1)], ids=["counted", "not counted"])
def test_every_write_is_noticed(copies, weights, change: Callable[[Tensor], Tensor]):
    first = copies.find(X, weights, ONE)
    change(weights[0])
    assert copies.find(X, weights, ONE) is first and torch.equal(first.twice, weights[0] * 2)


def test_a_copy_made_in_inference_mode_is_filled_outside(copies, weights):
    with torch.inference_mode():
        first = copies.find(X, weights, ONE)
    weights[0] += 1
    assert copies.find(X, weights, ONE) is first and torch.equal(first.twice, weights[0] * 2)


def test_weights_made_in_inference_mode_are_copied_outside(copies):
    with torch.inference_mode():
        weights = weights_of(ONE, HIDDEN, "cpu", torch.float16)
    assert torch.equal(copies.find(X, weights, ONE).twice, weights[0] * 2)


def test_a_capture_waits_for_nothing_and_leaves_what_is_kept_alone(copies, weights, monkeypatch):
    """Nor does it leave a copy behind, whose memory would hold something only after a replay."""
    first = copies.find(X, weights, ONE)

    def refuse(*_: Any) -> None:
        raise AssertionError("a capture must not wait")

    with monkeypatch.context() as capturing:
        capturing.setattr(kept, "is_capturing", lambda t: True)
        capturing.setattr(kept, "wait_for", refuse)
        capturing.setattr(kept, "norms", refuse)
        assert copies.find(X, weights, ONE) is first
        weights[0] += 1
        own, other = copies.find(X, weights, ONE), copies.find(X, weights, ONE, "another way")
    assert own is not first and torch.equal(own.twice, weights[0] * 2) and Doubled.filled == 0
    assert copies.find(X, weights, ONE, "another way") is not other
    assert copies.find(X, weights, ONE) is first and Doubled.filled == 1


class OnDevice:
    """What a copy consists of, as if on a GPU: who must be done with it before its memory is another's."""

    def __init__(self) -> None:
        self.readers: list[str] = []

    def record_stream(self, stream: str) -> None:
        self.readers.append(stream)


def test_memory_of_a_copy_is_kept_for_every_stream_that_reads_it(copies, weights, monkeypatch):
    """A model may go right after a call on a stream that is not the one it was packed on."""
    x: Any = SimpleNamespace(shape=X.shape, dtype=X.dtype, device=X.device, is_cuda=True)
    memory, streams = [OnDevice(), OnDevice()], ["first", "second", "first", "second", "a capture's"]
    monkeypatch.setattr(Doubled, "tensors", lambda self: memory)
    monkeypatch.setattr(kept, "is_capturing", lambda t: streams[0] == "a capture's")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[0])
    while streams:
        copies.find(x, weights, ONE)
        streams.pop(0)
    assert [part.readers for part in memory] == [["first", "second"]] * 2


def tensors_in(item: Any) -> list[Tensor]:
    if isinstance(item, Tensor):
        return [item]
    return [t for part in item for t in tensors_in(part)] if isinstance(item, tuple | list) else []


@pytest.mark.parametrize("kernel", ["triton", "persistent"])
def test_a_copy_names_all_its_memory(weights, kernel):
    if kernel == "triton":
        pytest.importorskip("triton")
        from cofi_kernels.compact_encoder.triton_kernels import PaddedEncoder

        encoder: Any = PaddedEncoder(weights, ONE, HIDDEN)
    else:
        encoder = PersistentEncoder(weights, ONE, HIDDEN, 1, False)
    named, held = list(encoder.tensors()), tensors_in(list(vars(encoder).values()))
    assert len(named) == (10 if kernel == "triton" else 2)
    assert {id(t) for t in named} == {id(t) for t in held}


@pytest.mark.gpu
def test_a_copy_packed_on_one_stream_is_complete_on_another():
    class Slow(Doubled):
        def __init__(self, *arguments: Any) -> None:
            torch.cuda._sleep(100_000_000)
            super().__init__(*arguments)

    weights = weights_of(ONE, HIDDEN, "cuda", torch.float16)
    torch.cuda.synchronize()
    copies, first, second = KeptCopies(Slow), torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(first):
        copies.find(X.cuda(), weights, ONE)
    with torch.cuda.stream(second):
        found = copies.find(X.cuda(), weights, ONE).twice.clone()
    second.synchronize()
    assert torch.equal(found, weights[0] * 2)


@pytest.mark.gpu
def test_a_graph_captured_on_another_stream_reads_the_copy():
    weights = weights_of(ONE, HIDDEN, "cuda", torch.float16)
    copies, x, graph = KeptCopies(Doubled), X.cuda(), torch.cuda.CUDAGraph()
    copies.find(x, weights, ONE)
    with torch.cuda.graph(graph):
        found = copies.find(x, weights, ONE).twice + 0
    graph.replay()
    assert torch.equal(found, weights[0] * 2)
