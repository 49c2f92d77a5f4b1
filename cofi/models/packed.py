"""Packed batches: the tokens of all sequences one after another, with no padding between them.

B sequences, T tokens in all, S padded length, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Inputs of B sequences without padding.

    input_ids, token_type_ids, position_ids: (T,) int64; positions count from 0 in each sequence
    cu_seqlens: (B + 1,) int32, sequence b owns tokens cu_seqlens[b] .. cu_seqlens[b + 1]
    max_seqlen: length of the longest sequence, or more
    is_padded:  the last sequence, which may be empty, is padding that fills the batch up to a size that recurs: heads,
                losses and means leave it out
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    is_padded: bool = False

    @property
    def bounds(self) -> Tensor:
        """cu_seqlens of the sequences that count."""
        return self.cu_seqlens[:-1] if self.is_padded else self.cu_seqlens

    @property
    def n_valid_tokens(self) -> Tensor | None:
        """How many tokens count, 0-dim on the device; None where all do."""
        return self.cu_seqlens[-2] if self.is_padded else None

    @property
    def n_sequences(self) -> int:
        return self.cu_seqlens.numel() - 1

    @property
    def n_tokens(self) -> int:
        return self.input_ids.numel()

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on `device`, see `sent`."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: t for name, t in values.items() if isinstance(t, Tensor)}
        moved: dict[str, Any] = {name: sent(t, device) for name, t in tensors.items()}
        return replace(self, **moved)


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`; from the host to a GPU without waiting for what the GPU has still to do before.

    The copy reads pinned memory, which PyTorch hands out again only when that is done.
    """
    return pinned(x, device).to(device, non_blocking=torch.device(device).type == "cuda")


def pinned(x: Tensor, device: torch.device | str) -> Tensor:
    """`x`, on the way from the host to a GPU in memory that this one reads by itself."""
    return x.pin_memory() if x.device.type == "cpu" and torch.device(device).type == "cuda" else x


def from_lists(
    input_ids: Sequence[Sequence[int]], token_type_ids: Sequence[Sequence[int]] | None = None
) -> PackedBatch:
    """Pack token lists as tokenizers return them. Raises ValueError for an empty sequence or unequal lengths."""
    lengths = [len(ids) for ids in input_ids]
    for row, length in enumerate(lengths):
        if length == 0:
            raise ValueError(f"input_ids[{row}] must hold at least one token")
        if token_type_ids is not None and len(token_type_ids[row]) != length:
            raise ValueError(f"token_type_ids[{row}] must hold {length} values, got {len(token_type_ids[row])}")
    if not lengths:
        raise ValueError("input_ids must hold at least one sequence")
    flat_ids = torch.tensor(list(chain.from_iterable(input_ids)), dtype=torch.int64)
    types = torch.zeros_like(flat_ids)
    if token_type_ids is not None:
        types = torch.tensor(list(chain.from_iterable(token_type_ids)), dtype=torch.int64)
    return PackedBatch(
        input_ids=flat_ids,
        token_type_ids=types,
        position_ids=torch.tensor(list(chain.from_iterable(map(range, lengths))), dtype=torch.int64),
        cu_seqlens=torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32),
        max_seqlen=max(lengths),
    )


def pack_padded(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> PackedBatch:
    """Pack (B, S) inputs, padded on either side; attention_mask is nonzero where there is a token (None: everywhere).

    Without `position_ids` positions count the tokens of a sequence, so that padding never changes an output. (Hugging
    Face's BERT counts columns: padded on the left, its first token is not at position 0.) They count from 0 for every
    family, where Hugging Face's RoBERTa takes the rows of its table, from 2 on.
    Raises ValueError naming the row for a sequence without tokens, and for shapes that do not fit.
    """
    return pack_slots(input_ids, token_slots(input_ids, attention_mask), attention_mask, token_type_ids, position_ids)


def token_slots(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Places of the tokens in the flattened (B * S) batch, ascending: (T,) int64."""
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(f"input_ids must have shape (B, S) with B, S > 0, got {tuple(input_ids.shape)}")
    if attention_mask is None:
        return torch.arange(input_ids.numel(), device=input_ids.device)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids {tuple(input_ids.shape)}, "
            f"got {tuple(attention_mask.shape)}"
        )
    return attention_mask.reshape(-1).nonzero().squeeze(-1)


def pack_slots(
    input_ids: Tensor,
    slots: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
) -> PackedBatch:
    """`pack_padded` for slots already known."""
    if input_ids.is_floating_point():
        raise TypeError(f"input_ids must be integers, got {input_ids.dtype}")
    n_rows, length = input_ids.shape
    cu_seqlens, max_seqlen = _boundaries(n_rows, length, attention_mask, input_ids.device)
    if position_ids is None:
        packed_positions = _index_in_sequence(cu_seqlens, slots.numel())
    else:
        packed_positions = _select("position_ids", position_ids, slots, n_rows, length)
    if token_type_ids is None:
        packed_types = torch.zeros_like(slots)
    else:
        packed_types = _select("token_type_ids", token_type_ids, slots, n_rows, length)
    return PackedBatch(
        input_ids=input_ids.reshape(-1)[slots].long(),
        token_type_ids=packed_types,
        position_ids=packed_positions,
        cu_seqlens=cu_seqlens,
        max_seqlen=max_seqlen,
    )


def _boundaries(n_rows: int, length: int, mask: Tensor | None, device: torch.device) -> tuple[Tensor, int]:
    if mask is None:
        return torch.arange(n_rows + 1, dtype=torch.int32, device=device) * length, length
    lengths = (mask != 0).sum(1)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    on_host = lengths.tolist()
    if 0 in on_host:
        raise ValueError(f"attention_mask must leave every row a token, got none in row {on_host.index(0)}")
    return cu_seqlens, max(on_host)


def _select(name: str, values: Tensor, slots: Tensor, n_rows: int, length: int) -> Tensor:
    if values.shape not in ((n_rows, length), (1, length)):
        raise ValueError(f"{name} must have shape ({n_rows}, {length}), got {tuple(values.shape)}")
    return values.expand(n_rows, length).reshape(-1)[slots].long()


def _sequence_of_token(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    lengths = cu_seqlens.diff().long()
    rows = torch.arange(lengths.numel(), device=lengths.device)
    return torch.repeat_interleave(rows, lengths, output_size=n_tokens)  # output_size spares a host sync


def _index_in_sequence(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    starts = cu_seqlens.long()[_sequence_of_token(cu_seqlens, n_tokens)]
    return torch.arange(n_tokens, device=cu_seqlens.device) - starts


def pad_packed(x: Tensor, cu_seqlens: Tensor, length: int, fill: float = 0.0) -> Tensor:
    """Spread packed rows over a padded batch: x (T, ...) -> (B, length, ...), padded on the right with `fill`.

    length: the longest sequence or more. Differentiable in x; no host sync.
    """
    rows = _sequence_of_token(cu_seqlens, x.shape[0])
    slots = rows * length + _index_in_sequence(cu_seqlens, x.shape[0])
    return scatter_slots(x, slots, (cu_seqlens.numel() - 1, length), fill)


def scatter_slots(x: Tensor, slots: Tensor, shape: tuple[int, int], fill: float = 0.0) -> Tensor:
    """Put packed rows back to their slots: x (T, ...) -> (B, S, ...) with `fill` where there was padding."""
    n_rows, length = shape
    if slots.numel() == n_rows * length:  # ascending and complete: nothing to move
        return x.view(n_rows, length, *x.shape[1:])
    padded = x.new_full((n_rows * length, *x.shape[1:]), fill)
    return padded.index_copy(0, slots, x).view(n_rows, length, *x.shape[1:])
