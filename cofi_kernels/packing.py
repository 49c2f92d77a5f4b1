"""Packed tokens and back: (T, ...) rows with cu_seqlens against (B, S, ...) with padding.

T packed tokens, B sequences, S padded length. Nothing here reads a device value on the host except
`length_groups`, which is for tensors that live on the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of attention scores, all heads counted. Padding a group with this many costs about what another group does:
# a dozen small operators, some 50 us, at 6 ns an element.
PADDING_ELEMENTS = 1 << 13
GROUP_ELEMENTS = 1 << 16  # of one group, about: 256 KiB of fp32, and the few copies of it in use, stay in a core's L2


class TokenIndex(NamedTuple):
    """Where each packed token stands. Both int64 (T,)."""

    sequence: Tensor
    position: Tensor


def token_index(cu_seqlens: Tensor, n_tokens: int) -> TokenIndex:
    """Sequence and position of each packed token, computed on the tensor's device; empty sequences own no token."""
    token = torch.arange(n_tokens, device=cu_seqlens.device)
    starts = cu_seqlens.to(torch.int64)
    sequence = torch.searchsorted(starts[1:], token, right=True)
    return TokenIndex(sequence, token - starts[sequence])


def pad(packed: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """(T, ...) -> (B, S = max_seqlen, ...), zeros where a sequence is shorter."""
    n_sequences = cu_seqlens.shape[0] - 1
    index = token_index(cu_seqlens, packed.shape[0])
    padded = packed.new_zeros((n_sequences * max_seqlen, *packed.shape[1:]))
    padded = padded.index_copy(0, index.sequence * max_seqlen + index.position, packed)
    return padded.view(n_sequences, max_seqlen, *packed.shape[1:])


def unpad(padded: Tensor, cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """(B, S, ...) -> (T = n_tokens, ...), the inverse of `pad`."""
    index = token_index(cu_seqlens, n_tokens)
    return padded.flatten(0, 1).index_select(0, index.sequence * padded.shape[1] + index.position)


def valid_positions(cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Bool (B, S): which padded positions hold a token."""
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).to(torch.int64)
    return torch.arange(max_seqlen, device=cu_seqlens.device) < lengths[:, None]


class Group(NamedTuple):
    """b sequences of (nearly) one length n on the CPU, to be computed together as (b, n).

    rows:    int64 (b * n,), the packed row of each place; short sequences repeat their last row
    places:  int64, the places that hold a token of their own; None where all do
    lengths: int64 (b,); None where all are n
    first:   the packed row they start at where they stand next to each other unpadded, otherwise None
    """

    n_sequences: int
    seqlen: int
    rows: Tensor
    places: Tensor | None
    lengths: Tensor | None
    first: int | None

    def take(self, packed: Tensor) -> Tensor:
        """Rows of the group, (T, ...) -> (b * n, ...): a view where they lie together."""
        if self.first is not None:
            return packed[self.first : self.first + self.n_sequences * self.seqlen]
        return packed.index_select(0, self.rows)

    def put(self, values: Tensor, packed: Tensor) -> None:
        """Write (b * n, ...) back to the group's rows of (T, ...); repeated rows are left out."""
        if self.first is not None:
            packed[self.first : self.first + self.n_sequences * self.seqlen] = values
        elif self.places is None:
            packed.index_copy_(0, self.rows, values)
        else:
            packed.index_copy_(0, self.rows[self.places], values.index_select(0, self.places))

    def key_mask(self) -> Tensor | None:
        """Bool (b, 1, 1, n), True for keys that are tokens; None where all are."""
        mask = self.query_mask()
        return None if mask is None else mask.transpose(-1, -2)

    def query_mask(self) -> Tensor | None:
        """Bool (b, 1, n, 1), True for rows that are tokens; None where all are."""
        if self.lengths is None:
            return None
        return (torch.arange(self.seqlen) < self.lengths[:, None])[:, None, :, None]


def length_groups(cu_seqlens: Tensor, max_seqlen: int, n_tokens: int, n_heads: int) -> tuple[Group, ...]:
    """Split the sequences into groups of like length with little padding, small enough for a core's cache.

    cu_seqlens must be on the CPU. Raises ValueError where it does not describe `n_tokens` rows in sequences of at
    most `max_seqlen`.
    """
    bounds = tuple(cu_seqlens.tolist())
    check_bounds(bounds, max_seqlen, n_tokens)
    return _groups(bounds, max(1, n_heads))


@functools.lru_cache(maxsize=64)  # every layer asks, forward and backward; making them takes 0.1 to 0.4 ms
def _groups(bounds: tuple[int, ...], n_heads: int) -> tuple[Group, ...]:
    lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    order = sorted((b for b in range(len(lengths)) if lengths[b]), key=lambda b: (-lengths[b], b))
    return tuple(
        _group([bounds[b] for b in members], [lengths[b] for b in members])
        for members in _split(order, lengths, n_heads)
    )


def check_bounds(bounds: Sequence[int], max_seqlen: int, n_tokens: int) -> None:
    """Raise ValueError unless `bounds` ascends from 0 to `n_tokens` in steps of at most `max_seqlen`."""
    if bounds[0] != 0 or bounds[-1] != n_tokens:
        raise ValueError(f"cu_seqlens must start at 0 and end at {n_tokens} tokens, got {bounds[0]} and {bounds[-1]}")
    steps = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    if min(steps, default=0) < 0:
        raise ValueError(f"cu_seqlens must ascend, got a step of {min(steps)}")
    if max(steps, default=0) > max_seqlen:
        raise ValueError(f"max_seqlen must be at least the longest sequence, {max(steps)}, got {max_seqlen}")


def _split(order: list[int], lengths: list[int], n_heads: int) -> Iterator[list[int]]:
    """Cut `order` (longest first) where padding or size would pass the limits above."""
    members: list[int] = []
    needed = 0  # score elements of one head, without padding
    for b in order:
        longest = lengths[members[0]] if members else lengths[b]
        computed, needed = (len(members) + 1) * longest**2, needed + lengths[b] ** 2
        too_padded = (computed - needed) * n_heads > PADDING_ELEMENTS
        if members and (too_padded or computed * n_heads > GROUP_ELEMENTS):
            yield members
            members, needed = [], lengths[b] ** 2
        members.append(b)
    if members:
        yield members


def _group(starts: list[int], lengths: list[int]) -> Group:
    longest = lengths[0]
    same = lengths[-1] == longest
    adjacent = same and all(b == a + longest for a, b in zip(starts, starts[1:], strict=False))
    length = torch.tensor(lengths)
    place = torch.arange(longest)
    rows = (torch.tensor(starts)[:, None] + place.minimum((length - 1)[:, None])).flatten()
    places = None if same else (place < length[:, None]).flatten().nonzero()[:, 0]
    return Group(len(starts), longest, rows, places, None if same else length, starts[0] if adjacent else None)
