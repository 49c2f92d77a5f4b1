"""Tables of the persistent encoder's plans: what a capture, which can copy nothing from the host, finds of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from cofi_kernels import native
from cofi_kernels.compact_encoder import cuda, kept
from tests.kernels.encoders import HIDDEN, ONE, bounds_of, weights_of


class Plan(NamedTuple):
    """What the encoder asks of a plan."""

    stages: bytes
    sublayers: bytes = bytes(16)
    refusal: str = ""
    heads: int = 1
    is_wide: bool = False


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every launch, none of which is made."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(cuda, "run", lambda plan, **arguments: found.append(arguments))
    monkeypatch.setattr(cuda, "plan_of", lambda layout, x, *_: Plan(bytes([x.shape[0]] * 16)))  # others for each T
    monkeypatch.setattr(cuda, "_tables", {})
    return found


@contextmanager
def capturing() -> Iterator[None]:
    """As the device has it in a capture: nothing may come from the host, and nothing may be waited for."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a capture copies nothing from the host and waits for nothing")

    with pytest.MonkeyPatch.context() as patch:
        for module in (cuda, kept):
            patch.setattr(module, "is_capturing", lambda t: True)
        patch.setattr(torch.Tensor, "to", refuse)
        patch.setattr(kept, "wait_for", refuse)
        yield


def half_weights(device: str = "cpu") -> list[Tensor]:
    return weights_of(ONE, HIDDEN, device, torch.float16)


def forward(n_tokens: int, weights: list[Tensor]) -> None:
    encode(torch.zeros(n_tokens, HIDDEN).half(), torch.tensor([0, n_tokens], dtype=torch.int32), weights)


def encode(x: Tensor, cu_seqlens: Tensor, weights: list[Tensor]) -> Tensor:
    sizes = (list(ONE.heads), list(ONE.intermediate), list(ONE.mha), list(ONE.ffn))
    settings = (ONE.head_dim, ONE.eps, ONE.activation, "fp32")
    return cuda.forward(x, cu_seqlens, x.shape[0], weights, *sizes, *settings)


@pytest.mark.parametrize("copy", ["found", "packed by the graph"])
def test_a_capture_reads_the_tables_of_an_eager_call(launched, copy):
    weights = half_weights()
    forward(4, weights)
    if copy != "found":
        weights[0] += 1
    with capturing():
        forward(4, weights)
    eager, captured = launched
    assert (captured["sublayers"], captured["stages"]) == (eager["sublayers"], eager["stages"])
    assert (captured["weights"] == eager["weights"]) == (copy == "found")


def test_a_capture_of_sizes_that_were_not_called_before_says_so(launched):
    weights = half_weights()
    forward(4, weights)
    with capturing(), pytest.raises(RuntimeError, match="5 tokens.*call it once with these sizes before capturing"):
        forward(5, weights)
    assert len(launched) == 1
    forward(5, weights)
    with capturing():
        forward(5, weights)
    assert launched[1]["stages"] == launched[2]["stages"] != launched[0]["stages"]


def test_tables_outlive_the_encoder_that_brought_them(launched):
    weights = half_weights()
    forward(4, half_weights())
    with capturing():
        forward(4, weights)
    assert launched[0]["stages"] == launched[1]["stages"]


@pytest.mark.gpu
def test_a_graph_packs_for_itself_at_every_replay():
    if native.why_not_cuda() is not None:
        pytest.skip(str(native.why_not_cuda()))
    x, bounds, weights = torch.randn(4, HIDDEN, device="cuda").half(), bounds_of([4], "cuda"), half_weights("cuda")
    encode(x, bounds, weights)
    weights[0] += 1
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = encode(x, bounds, weights)
    weights[6] *= 2
    graph.replay()
    assert torch.equal(y, encode(x, bounds, weights))
