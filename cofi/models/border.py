"""The border between callers, who may pad, and the model, which never does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cofi.models.packed import PackedBatch, pack_slots, pad_packed, scatter_slots, token_slots


@dataclass(frozen=True)
class Border:
    """A packed batch and how token-wise results go back to the caller: padded as the inputs came, or packed.

    slots, shape: of the padded input, (T,) places in the flattened (B * S) batch and (B, S); None for packed input
    """

    batch: PackedBatch
    slots: Tensor | None = None
    shape: tuple[int, int] | None = None

    @classmethod
    def enter(
        cls,
        batch: PackedBatch | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> Border:
        """Take packed or padded input. Raises ValueError unless exactly one is given and its shapes fit."""
        if batch is not None:
            if not (input_ids is None and attention_mask is None and token_type_ids is None and position_ids is None):
                raise ValueError("batch must be given alone, without input_ids and what belongs to them")
            return cls(batch)
        if input_ids is None:
            raise ValueError("exactly one of input_ids and batch must be given, got none")
        slots = token_slots(input_ids, attention_mask)
        packed = pack_slots(input_ids, slots, attention_mask, token_type_ids, position_ids)
        return cls(packed, slots, (input_ids.shape[0], input_ids.shape[1]))

    def leave(self, x: Tensor) -> Tensor:
        """(T, ...) as the caller wants it: (B, S, ...) with zeros at padding for padded input."""
        return x if self.slots is None or self.shape is None else scatter_slots(x, self.slots, self.shape)

    def padded(self, x: Tensor, fill: float) -> Tensor:
        """(T, ...) -> (B, S, ...) with `fill` at padding; packed input is padded on the right to its longest."""
        if self.slots is None or self.shape is None:
            rows = pad_packed(x, self.batch.cu_seqlens, self.batch.max_seqlen, fill)
            return rows[:-1] if self.batch.is_padded else rows
        return scatter_slots(x, self.slots, self.shape, fill)
