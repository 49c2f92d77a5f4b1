"""A model whose calls are replays of captured CUDA graphs: from packed ids to logits in one submission.

T tokens, B sequences; a bucket has as many or more of both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cofi.models.output import CompactOutput
from cofi.models.packed import PackedBatch
from cofi.models.watch import Watch
from cofi_kernels.compact_encoder.graphs import Bucket, Capture, Graphs, bucket_of, spare_lengths
from cofi_kernels.launching import launching

if TYPE_CHECKING:
    from cofi.models.model import CompactModel


class ReplayedModel:
    """`CompactModel` for inference on packed batches, by replay.

    The weights are those of `model` at the first call of a bucket; call `refresh` after changing them. Weights that
    were replaced, that moved or that PyTorch counted a write to are noticed without.

    model:      on a CUDA device; it is put into evaluation mode
    max_graphs: captured graphs kept. Each has its inputs, 24 bytes a token, and its outputs to itself; of states in
                bf16 these are 2 E bytes a token, 25 MB for 128 x 128 tokens of BERT-base. All else they share
    outputs:    fields that are returned, all when None: each is one more copy at every call, and states are large
    tune:       measure how to launch the encoder at the first call of a bucket, seconds each, instead of predicting it
    dependent:  bring kernels onto the GPU before the one in front of them has ended, where it can; never measured
    capture:    how a function is captured; CUDA graphs when None
    Raises ValueError for a model that is not on a CUDA device, and for outputs that it does not have.
    """

    def __init__(
        self,
        model: CompactModel,
        *,
        max_graphs: int = 16,
        outputs: Sequence[str] | None = None,
        tune: bool = False,
        dependent: bool = False,
        capture: Capture | None = None,
    ) -> None:
        device = model.embeddings.word.weight.device
        if capture is None and device.type != "cuda":
            raise ValueError(f"model must be on a CUDA device to be captured, got {device}")
        self.model = model.eval()
        self._longest = model.config.longest
        self._graphs = Graphs(self._run, max_graphs, capture)
        self._fields = _fields_of(model)
        if outputs is not None:
            unknown = set(outputs) - set(self._fields)
            if unknown or not outputs:
                raise ValueError(f"outputs must name some of {', '.join(self._fields)}, got {list(outputs)}")
            self._fields = tuple(outputs)
        self._launching = {"tuned": tune, "dependent": dependent}
        self._watch = Watch(self.model)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Sizes of the graphs held, the one used longest ago first."""
        return self._graphs.buckets

    def refresh(self) -> None:
        """Drop the graphs: the next calls capture the weights as they are then."""
        self._graphs.clear()
        self._watch = Watch(self.model)

    def __call__(self, batch: PackedBatch) -> CompactOutput:
        """As `model(batch=batch)` without gradients: fields (T, ...) and (B, ...), of states the last at most.

        Raises ValueError for a batch without tokens, on another device, or of sequences longer than the model takes.
        """
        self._check(batch)
        if self._watch.has_changed():
            self.refresh()
        bucket = bucket_of(batch.n_sequences, batch.n_tokens, batch.max_seqlen, self._longest)
        outputs = dict(zip(self._fields, self._graphs(bucket, pack_inputs(batch, bucket)), strict=True))
        n_sequences = batch.bounds.numel() - 1  # without padding
        of_tokens = ("last_hidden_state", *(self.model.head.outputs if self.model.head.of_tokens else ()))
        sizes = {name: batch.n_tokens if name in of_tokens else n_sequences for name in outputs}
        fields: dict[str, Any] = {name: out[: sizes[name]] for name, out in outputs.items()}
        return CompactOutput(**fields)

    def _check(self, batch: PackedBatch) -> None:
        device = self.model.embeddings.word.weight.device
        if batch.input_ids.device != device:
            raise ValueError(f"batch must be on the device of the model, {device}, got {batch.input_ids.device}")
        if batch.n_tokens == 0 or batch.n_sequences == 0:
            raise ValueError("batch must hold at least one token")
        if batch.max_seqlen > self._longest:
            raise ValueError(f"sequences must have at most {self._longest} tokens, got {batch.max_seqlen}")

    def _run(self, inputs: Tensor, bucket: Bucket) -> tuple[Tensor, ...]:
        with launching(**self._launching):
            output = self.model(batch=unpack_inputs(inputs, bucket), return_dict=True)
        return tuple(output[name] for name in self._fields)


def _fields_of(model: CompactModel) -> tuple[str, ...]:
    pooled = () if model.pooler is None else ("pooler_output",)
    return (*pooled, *model.head.outputs, "last_hidden_state")


def pack_inputs(batch: PackedBatch, bucket: Bucket) -> Tensor:
    """The batch, padded to the bucket, as one int64 tensor: ids, types, positions (T each), then the int32 bounds
    (B + 1), two in each number.

    Tokens to spare are id 0 at position 0, in sequences of their own behind those of the batch.
    """
    n_spare = bucket.n_tokens - batch.n_tokens
    zeros = batch.input_ids.new_zeros(n_spare)
    tokens = (batch.input_ids, zeros, batch.token_type_ids, zeros, batch.position_ids, zeros)
    sizes = (bucket.n_sequences - batch.n_sequences, n_spare, bucket.max_seqlen)
    spare = _spare_bounds(*sizes, batch.n_tokens, bucket.n_sequences % 2 == 0, zeros.device)
    if spare.is_cuda:  # it may leave the cache before this stream has read it
        spare.record_stream(torch.cuda.current_stream(spare.device))
    return torch.cat((*tokens, torch.cat((batch.cu_seqlens, spare)).view(torch.int64)))


@functools.lru_cache(maxsize=256)
def _spare_bounds(
    n_sequences: int, n_tokens: int, max_seqlen: int, first: int, fill: bool, device: torch.device
) -> Tensor:
    """Bounds of the spare sequences, int32, on the device; `fill`: one more number, so that they are an even count."""
    lengths = spare_lengths(n_sequences, n_tokens, max_seqlen)
    bounds = list(accumulate(lengths, initial=first))[1:] + [0] * fill
    return torch.tensor(bounds, dtype=torch.int32, device=device)


def unpack_inputs(inputs: Tensor, bucket: Bucket) -> PackedBatch:
    """The padded batch of `pack_inputs`, as views."""
    ids, types, positions, bounds = inputs.split([bucket.n_tokens] * 3 + [bucket.n_sequences // 2 + 1])
    return PackedBatch(
        input_ids=ids,
        token_type_ids=types,
        position_ids=positions,
        cu_seqlens=bounds.view(torch.int32)[: bucket.n_sequences + 1],
        max_seqlen=bucket.max_seqlen,
    )
