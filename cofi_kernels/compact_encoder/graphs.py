"""Replay of captured graphs, one for each bucket of sizes: what is launched many times is submitted once.

A call's sizes are rounded up to a bucket. The first call of a bucket captures a graph over buffers of its sizes; each
call copies its inputs into them, replays, and copies the results out.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

_STEPS = 8  # buckets of tokens in an octave: about an eighth more rows than are needed at most
_LEAST_TOKENS, _LEAST_LENGTH = 16, 16
_WARM_UPS = 2  # runs before a capture: compilation, and what allocates once
_capturing = threading.Lock()  # of the process: PyTorch takes one capture at a time


class Bucket(NamedTuple):
    """Sizes of a captured graph."""

    n_sequences: int
    n_tokens: int
    max_seqlen: int


class Replay(NamedTuple):
    """A captured graph. Running it computes what `outputs` hold from what is in `inputs`."""

    run: Callable[[], None]
    inputs: Tensor
    outputs: tuple[Tensor, ...]


class Capture(Protocol):
    """Turns a function over fixed buffers into a replay of it."""

    def __call__(self, function: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor) -> Replay: ...


def bucket_of(n_sequences: int, n_tokens: int, max_seqlen: int, longest: int) -> Bucket:
    """The smallest bucket that holds a call; `longest`: what max_seqlen may be at most.

    Sequences round up to a power of two, tokens to an eighth of one, lengths to a power of two. What is to spare is
    sequences of its own (see `spare_lengths`), so that there is a token to spare wherever there is a sequence.
    """
    length = min(longest, max(_LEAST_LENGTH, _power_of_two(max_seqlen)))
    if n_sequences == _power_of_two(n_sequences) and n_tokens == _round_up(n_tokens):
        return Bucket(n_sequences, n_tokens, length)
    tokens = _round_up(n_tokens + 1)
    most_spare = max(_LEAST_TOKENS, tokens // _STEPS)  # of any call of this bucket
    return Bucket(_power_of_two(n_sequences + -(-most_spare // length)), tokens, length)


def spare_lengths(n_sequences: int, n_tokens: int, max_seqlen: int) -> list[int]:
    """Lengths of so many spare sequences that own so many spare tokens. Empty ones come first: a row follows them.

    Raises ValueError where they cannot hold them.
    """
    full, rest = divmod(n_tokens, max_seqlen)
    lengths = [rest] * (rest > 0) + [max_seqlen] * full
    if len(lengths) > n_sequences:
        raise ValueError(f"{n_sequences} sequences of at most {max_seqlen} tokens cannot hold {n_tokens}")
    return [0] * (n_sequences - len(lengths)) + lengths


def _round_up(n_tokens: int) -> int:
    step = max(_LEAST_TOKENS, _power_of_two(n_tokens) // (2 * _STEPS))
    return -(-n_tokens // step) * step


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


class Graphs:
    """The captured graphs of one function, at most `limit`: the one used longest ago goes first.

    function: (inputs, bucket) -> outputs. It runs with gradients off, must not wait for the device, and takes its sizes
    from the bucket. Safe to call from several threads, which take turns, and from several streams: a replay waits for
    the one before it.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Bucket], tuple[Tensor, ...]],
        limit: int,
        capture: Capture | None = None,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be positive, got {limit}")
        self._function, self._limit = function, limit
        self._capture = CudaCapture() if capture is None else capture
        self._known: OrderedDict[Bucket, Replay] = OrderedDict()
        self._lock = threading.Lock()
        self._done: torch.cuda.Event | None = None

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Of the graphs held, the one used longest ago first."""
        return tuple(self._known)

    def clear(self) -> None:
        """Drop all graphs, for instance because weights they were captured with are others now."""
        with self._lock:
            while self._known:
                self._drop()
            self._done = None  # an event of one device, and the next graphs may be on another

    def __call__(self, bucket: Bucket, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the bucket's graph on `inputs`, of the bucket's shape; copies of all outputs, of the bucket's sizes."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            stream = torch.cuda.current_stream(inputs.device) if inputs.is_cuda else None
            if stream is not None and self._done is not None:
                stream.wait_event(self._done)
            replay = self._find(bucket, inputs)
            replay.inputs.copy_(inputs)
            replay.run()
            outputs = tuple(out.clone() for out in replay.outputs)
            if stream is not None:
                self._done = stream.record_event(self._done)
            return outputs

    def _find(self, bucket: Bucket, inputs: Tensor) -> Replay:
        replay = self._known.get(bucket)
        if replay is None:
            while len(self._known) >= self._limit:  # before the capture: their memory serves the new one
                self._drop()
            replay = self._capture(lambda buffer: self._function(buffer, bucket), inputs.clone())
            self._known[bucket] = replay
        self._known.move_to_end(bucket)
        return replay

    def _drop(self) -> None:
        """Forget the graph used longest ago. Its inputs came from the stream of its first call; the last replay, on any
        other, may still read them, so that stream must not have their memory back before."""
        _, replay = self._known.popitem(last=False)
        if replay.inputs.is_cuda and self._done is not None:
            stream = torch.cuda.current_stream(replay.inputs.device)
            stream.wait_event(self._done)
            replay.inputs.record_stream(stream)


class CudaCapture:
    """Captures CUDA graphs that share one pool of memory: they must not run at the same time.

    While a graph is captured no thread may wait for the whole device (`torch.cuda.synchronize`); other captures of this
    file take turns.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._graphs: weakref.WeakSet[Any] = weakref.WeakSet()  # those in the pool
        self._sides: dict[torch.device, torch.cuda.Stream] = {}

    def __call__(self, function: Callable[[Tensor], tuple[Tensor, ...]], inputs: Tensor) -> Replay:
        with torch.cuda.device(inputs.device):
            current, side = torch.cuda.current_stream(inputs.device), self._side(inputs.device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    function(inputs)
            current.wait_stream(side)
            outputs: list[Tensor] = []
            graph = capture_graph(lambda: outputs.extend(function(inputs)), side, self._pool_handle)
            self._graphs.add(graph)
        return Replay(graph.replay, inputs, tuple(outputs))

    def _side(self, device: torch.device) -> torch.cuda.Stream:
        """One for warm-ups and captures, so that cuBLAS has its workspace for it before there is a pool; and one for
        all captures, so that each may take memory that another has left in the pool."""
        if device not in self._sides:
            self._sides[device] = torch.cuda.Stream(device)
        return self._sides[device]

    def _pool_handle(self) -> Any:
        """A pool ends with its last graph: PyTorch refuses its handle from then on (vllm issue 28426)."""
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool


def capture_graph(
    run: Callable[[], None], stream: torch.cuda.Stream, pool: Callable[[], Any] = lambda: None
) -> torch.cuda.CUDAGraph:
    """What `run` launches on the current device, which is the stream's, as a graph in the memory of `pool`.

    It waits for the device and for captures of other threads.
    """
    graph = torch.cuda.CUDAGraph()
    # other threads may allocate and copy meanwhile: only what this one launches belongs to the graph
    with _capturing, torch.cuda.graph(graph, pool=pool(), stream=stream, capture_error_mode="thread_local"):
        run()
    return graph
