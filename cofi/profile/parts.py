"""Encoders of any structure, as they are deployed, with random weights: what a profile times."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

import cofi_kernels
from cofi.masks import Structure
from cofi.models import CompactConfig, CompactModel, PackedBatch
from cofi.prune.compact import compact_config
from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder.layout import weight_shapes

Call = Callable[[], object]
STD = 0.02  # of the weights: what they are does not change the time, denormal numbers would


@dataclass(frozen=True)
class Deployment:
    """How a model will run: its configuration, the batch, the device and the precision of its products."""

    config: CompactConfig
    batch: PackedBatch
    device: torch.device
    precision: str

    @cached_property
    def _noise(self) -> Tensor:
        return STD * torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" and self.precision == "bf16" else torch.float32

    @property
    def kernel_precision(self) -> str:
        """`EncoderLayout.precision`: on a GPU the dtype of the weights says it."""
        return self.precision if self.device.type == "cpu" else "fp32"

    def attention(self, heads: int, hidden: int) -> Call:
        """As many attention sublayers as the model has layers, nothing else."""
        n = self.config.num_hidden_layers
        return self.encoder(Structure((heads,) * n, (0,) * n, hidden, (True,) * n, (False,) * n))

    def ffn(self, dims: int, hidden: int) -> Call:
        """As many FFN sublayers as the model has layers, nothing else."""
        n = self.config.num_hidden_layers
        return self.encoder(Structure((0,) * n, (dims,) * n, hidden, (False,) * n, (True,) * n))

    def single(self, hidden: int) -> Call:
        """An encoder of one FFN sublayer without a unit: the least there is, as one without any takes a slower way."""
        return self.encoder(Structure((0,), (0,), hidden, (False,), (True,)))

    def whole(self, structure: Structure) -> Call:
        """A whole model: embeddings, encoder, head."""
        return self._model(compact_config(self.config, structure))

    def bare(self) -> Call:
        """The model with one FFN sublayer without a unit: embeddings, head, and the call. Also of a pruned model."""
        removed = {"num_attention_heads": 0, "intermediate_size": 0, "attention_bias_only": False}
        layers = {n: removed | {"ffn_bias_only": n == 0} for n in range(self.config.num_hidden_layers)}
        return self._model(CompactConfig.from_dict({**self.config.to_dict(), "per_layer_config": layers}))

    @torch.inference_mode(mode=False)
    def _model(self, config: CompactConfig) -> Call:
        config = copy.deepcopy(config)
        config.inference_precision = self.kernel_precision
        with torch.random.fork_rng(devices=[]):
            model = CompactModel(config).eval()
        torch.nn.Module.to(model, self.device, self.dtype)
        return partial(model, batch=self.batch)

    @torch.inference_mode(mode=False)  # weights made under it would be packed anew at every call
    def encoder(self, structure: Structure) -> Call:
        """The layers of `structure`, nothing else."""
        config = self.config
        layout = EncoderLayout(
            structure.heads,
            structure.intermediate,
            structure.mha,
            structure.ffn,
            config.head_dim,
            config.layer_norm_eps,
            config.hidden_act,
            self.kernel_precision,
        )
        weights = [self._weight(shape) for shape in weight_shapes(layout, structure.hidden)]
        x = self._weight((self.batch.n_tokens, structure.hidden))
        return partial(cofi_kernels.compact_encoder, x, self.batch.cu_seqlens, self.batch.max_seqlen, weights, layout)

    def _weight(self, shape: Sequence[int] | None) -> Tensor:
        """Of its own memory, so that caches hold what they would hold."""
        size = 0 if shape is None else math.prod(shape)
        repeated = self._noise.repeat(size // self._noise.numel() + 1)[:size].clone()
        return repeated.view(-1 if shape is None else tuple(shape)).to(self.device, self.dtype)
