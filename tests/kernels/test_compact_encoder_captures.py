"""Captures of CUDA graphs: their pools of memory, streams, devices and threads, on a GPU and on a stand-in."""

from __future__ import annotations

import contextlib
import itertools
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels.compact_encoder.graphs import Bucket, CudaCapture, Graphs, Replay, capture_graph
from tests.kernels.threads import in_threads


def double(inputs: Tensor, bucket: Bucket) -> tuple[Tensor, ...]:
    return (inputs * 2,)


def call(graphs: Graphs, size: int) -> None:
    assert graphs(Bucket(1, size, 16), torch.ones(size))[0].tolist() == [2.0] * size


class FakeGraph:
    def replay(self) -> None: ...


class FakeStream:
    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: Any) -> None: ...


class FakeCuda:
    """What a capture asks of torch.cuda, with PyTorch's rules: a pool ends with its last graph and cannot be taken
    again, memory of a pool belongs to the stream it was captured on, and there is one capture at a time."""

    CUDAGraph = FakeGraph

    def __init__(self) -> None:
        self.streams: list[Any] = ["caller's"]
        self.devices: list[Any] = ["other"]
        self.made: list[str] = []
        self.pools: dict[int, tuple[str, int]] = {}  # of each its stream and how many graphs are left
        self.seen: list[tuple[Any, Any, bool]] = []  # device, stream, whether captured
        self.is_capturing = False
        self._numbers = itertools.count(1)

    def graph_pool_handle(self) -> int:
        return next(self._numbers)

    def Stream(self, device: Any = None) -> Any:  # noqa: N802
        name = f"side {len(self.made)}"
        self.made.append(name)
        return FakeStream(name)

    def current_stream(self, device: Any = None) -> Any:
        return FakeStream(self.streams[-1])

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.streams.append(stream.name)
        yield
        self.streams.pop()

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        self.devices.append(device)
        yield
        self.devices.pop()

    @contextlib.contextmanager
    def graph(
        self, graph: FakeGraph, *, pool: int | None, stream: Any = None, capture_error_mode: str
    ) -> Iterator[None]:
        assert not self.is_capturing, "one capture at a time"
        stream = stream or FakeStream("PyTorch's own")
        if pool is not None:
            owner, count = self.pools.get(pool, (stream.name, 0))
            assert count > 0 or pool not in self.pools, "use_count > 0"
            assert owner == stream.name, "memory of another stream"
            self._count(pool, owner, 1)
            weakref.finalize(graph, self._count, pool, owner, -1)
        self.is_capturing = True
        with self.stream(stream):
            yield
        self.is_capturing = False

    def _count(self, pool: int, owner: str, change: int) -> None:
        self.pools[pool] = owner, self.pools.get(pool, (owner, 0))[1] + change

    def watched(self, inputs: Tensor, bucket: Bucket) -> tuple[Tensor, ...]:
        """`double`, and where it ran."""
        self.seen.append((self.devices[-1], self.streams[-1], self.is_capturing))
        return double(inputs, bucket)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name in ("CUDAGraph", "graph_pool_handle", "Stream", "current_stream", "stream", "device", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


@pytest.mark.parametrize("limit", [1, 2])
def test_a_pool_is_not_taken_again_once_its_last_graph_is_gone(fake_cuda, limit):
    graphs = Graphs(double, limit, CudaCapture())
    for size in (4, 8, 4, 16):
        call(graphs, size)
    graphs.clear()
    call(graphs, 4)
    assert len(fake_cuda.pools) == (5 if limit == 1 else 2)


def test_captures_are_on_the_inputs_device_and_the_stream_of_the_warm_ups(fake_cuda):
    graphs = Graphs(fake_cuda.watched, 2, CudaCapture())
    call(graphs, 4)
    call(graphs, 8)
    cpu, captured = torch.device("cpu"), [False, False, True]
    assert fake_cuda.seen == [(cpu, "side 0", is_captured) for is_captured in captured * 2]
    assert fake_cuda.devices == ["other"] and fake_cuda.streams == ["caller's"]


def test_captures_of_several_threads_take_turns(fake_cuda):
    wrong: list[BaseException] = []

    def capture(_: int) -> None:
        try:
            capture_graph(lambda: time.sleep(0.02), FakeStream("side"))
        except BaseException as error:
            wrong.append(error)

    in_threads(capture, range(3))
    assert wrong == []


class OnDevice:
    """Inputs that say they are on a GPU, and what is done to them."""

    is_cuda, device = True, "cuda:0"

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def clone(self) -> OnDevice:
        return OnDevice(self.log)

    def copy_(self, other: OnDevice) -> None: ...

    def record_stream(self, stream: Any) -> None:
        self.log.append(("kept for", stream.name))


class LoggedStream(FakeStream):
    def __init__(self, name: str, log: list[Any]) -> None:
        super().__init__(name)
        self.log = log

    def wait_event(self, event: Any) -> None:
        self.log.append((self.name, "waits for", event))

    def record_event(self, event: Any) -> str:
        return f"end of {self.name}"


@pytest.mark.parametrize("how", ["another bucket", "clear"])
def test_memory_of_inputs_that_a_replay_on_another_stream_reads_is_kept_for_it(monkeypatch, how):
    log: list[Any] = []
    current = [LoggedStream("first", log)]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    graphs = Graphs(lambda inputs, bucket: (), 1, lambda function, inputs: Replay(lambda: None, inputs, ()))
    inputs: Any = OnDevice(log)
    graphs(Bucket(1, 4, 16), inputs)
    for name in ("second", "third"):
        current[0] = LoggedStream(name, log)
        if name == "second":
            graphs(Bucket(1, 4, 16), inputs)
    log.clear()
    graphs(Bucket(1, 8, 16), inputs) if how == "another bucket" else graphs.clear()
    assert log[0] == ("third", "waits for", "end of second") and log[-1] == ("kept for", "third")


@pytest.mark.gpu
@pytest.mark.parametrize("limit", [1, 2])
def test_graphs_come_and_go_on_a_gpu(limit):
    """Products, so that cuBLAS has a workspace; with one graph at most each capture begins with none left."""
    weight = torch.randn(64, 64, device="cuda")
    graphs = Graphs(lambda inputs, bucket: (inputs @ weight,), limit)
    for n_rows in (16, 32, 16, 48):
        x = torch.randn(n_rows, 64, device="cuda")
        torch.testing.assert_close(graphs(Bucket(1, n_rows, 16), x)[0], x @ weight)
        if n_rows == 32:
            graphs.clear()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_graphs_of_a_device_that_is_not_the_current_one():
    x = torch.randn(16, 64, device="cuda:1")
    graphs = Graphs(lambda inputs, bucket: (inputs @ inputs.t(),), 2)
    torch.testing.assert_close(graphs(Bucket(1, 16, 16), x)[0], x @ x.t())


@pytest.mark.gpu
def test_threads_capture_at_the_same_time_on_a_gpu():
    wrong: list[str] = []

    def work(value: int) -> None:
        graphs = Graphs(lambda inputs, bucket: (inputs * 2,), 1)
        with torch.cuda.stream(torch.cuda.Stream()):
            for i in range(6):
                x = torch.full((16 + 16 * (i % 2),), float(value), device="cuda")
                out = graphs(Bucket(1, x.numel(), 16), x)[0]
                wrong.extend(str(v) for v in out[out != 2 * value].tolist())

    in_threads(work, range(3))
    assert wrong == []
