"""A model with a batch, and what its logits should be."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import cofi_kernels
from bench.gpu.inference.batches import Batch
from bench.structures import Structure
from cofi.models import CompactModel
from cofi_kernels import EncoderLayout, force_backend
from cofi_kernels.compact_encoder import reference
from cofi_kernels.testing import relative_error

Encoder = Callable[..., Tensor]  # as cofi_kernels.compact_encoder


@contextlib.contextmanager
def encoder_by(function: Encoder) -> Iterator[None]:
    """Models of this block run their layers by `function`."""
    with mock.patch.object(cofi_kernels, "compact_encoder", function):
        yield


def arguments_of(layout: EncoderLayout) -> tuple[Any, ...]:
    """What implementations of the op take behind the weights."""
    counts = (list(layout.heads), list(layout.intermediate), list(layout.mha), list(layout.ffn))
    return (*counts, layout.head_dim, layout.eps, layout.activation, layout.precision)


def by_reference(x: Tensor, cu_seqlens: Tensor, longest: int, weights: Any, layout: EncoderLayout, **_: Any) -> Tensor:
    return reference.forward(x, cu_seqlens, longest, list(weights), *arguments_of(layout))


def by_triton(x: Tensor, cu_seqlens: Tensor, longest: int, weights: Any, layout: EncoderLayout, **_: Any) -> Tensor:
    """What the op runs on a GPU; without one, in Triton's interpreter."""
    from cofi_kernels.compact_encoder import triton_kernels

    return triton_kernels.forward(x, cu_seqlens, longest, list(weights), *arguments_of(layout))


def by_persistent(x: Tensor, cu_seqlens: Tensor, longest: int, weights: Any, layout: EncoderLayout, **_: Any) -> Tensor:
    """One CUDA kernel; what no plan of it takes would run on Triton's, see `engines.why_not_persistent`."""
    from cofi_kernels.compact_encoder import cuda

    return cuda.forward(x, cu_seqlens, longest, list(weights), *arguments_of(layout))


@dataclass(frozen=True)
class Subject:
    """model: in the dtype that is measured; batch: on its device."""

    name: str
    structure: Structure
    model: CompactModel
    batch: Batch
    smoke: bool

    @property
    def device(self) -> torch.device:
        return self.batch.input_ids.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embeddings.word.weight.dtype

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        """Logits and states in fp64 of the weights as they are rounded."""
        return by_definition(copy.deepcopy(self.model).double(), self.batch)

    @cached_property
    def eager_errors(self) -> dict[str, float]:
        """Of the definition in the dtype that is measured."""
        eager = by_definition(self.model, self.batch)
        return {name: relative_error(eager[name], self.truth[name]) for name in eager}


@torch.no_grad()
def by_definition(model: CompactModel, batch: Batch) -> dict[str, Tensor]:
    with force_backend("reference"), encoder_by(by_reference):
        output = model(batch=batch.packed)
    return {name: output[name] for name in ("logits", "last_hidden_state")}
