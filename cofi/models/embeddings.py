"""Token embeddings: tables, LayerNorm, dropout and, for ELECTRA, a projection to the hidden size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import cofi_kernels
from cofi.models.layers import Norm, is_plain_table, linear
from cofi.models.packed import PackedBatch
from cofi_kernels.checks import beyond_table

if TYPE_CHECKING:
    from cofi.models.config import CompactConfig


class Embeddings(nn.Module):
    """(T,) tokens -> (T, E). The hidden mask multiplies before and after the LayerNorm, which sees kept dims only.

    Where a projection follows the tables, they hold no hidden dims and the mask multiplies the projection.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width = config.embedding_size
        self.eps, self.dropout = config.layer_norm_eps, config.hidden_dropout_prob
        self.position_offset = config.position_offset
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.token_type = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = Norm(width)
        self.projection = nn.Linear(width, config.hidden_size) if config.embedding_projection else None

    def forward(
        self, batch: PackedBatch, z_hidden: Tensor | None, site: Tensor | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """z_hidden (E,) or None; site: (2,) int64 dropout counter, None outside training; dtype: of the result."""
        if z_hidden is None and site is None and not torch.is_grad_enabled() and self.has_plain_tables():
            x = self._infer(batch)
            return x if self.projection is None else self.projection(x)
        x = self._look_up(batch)
        table_mask = z_hidden if self.projection is None else None
        if table_mask is not None:
            x = x * table_mask.to(x.dtype)  # a mask in fp32 must not widen a model in bf16
        x = cofi_kernels.masked_layer_norm(x, None, self.norm.weight, self.norm.bias, z_hidden=table_mask, eps=self.eps)
        x = x if dtype is None else x.to(dtype)  # only here: of the tables a batch takes a few rows
        if site is not None and self.dropout > 0:
            x = cofi_kernels.counter_dropout(x, self.dropout, site)
        if self.projection is None:
            return x
        x = linear(x, self.projection)
        if z_hidden is None:
            return x
        # as in the kernels, a mask of 0 gets no gradient
        return x * torch.where(z_hidden == 0, z_hidden.detach(), z_hidden).to(x.dtype)

    def _look_up(self, batch: PackedBatch) -> Tensor:
        """The sum of the tables' rows. Raises IndexError for a number beyond its table, on a CPU."""
        used = [
            ("input_ids", self.word, batch.input_ids),
            ("position_ids", self.position, batch.position_ids + self.position_offset),
        ]
        if self.token_type is not None:
            used.append(("token_type_ids", self.token_type, batch.token_type_ids))
        rows = []
        for name, table, numbers in used:
            try:
                rows.append(table(numbers))
            except IndexError as error:
                raise beyond_table(name, numbers, table.num_embeddings) from error
        return sum(rows[1:], rows[0])

    def has_plain_tables(self) -> bool:
        """Whether their weights say all of what the tables give."""
        return all(is_plain_table(table) for table in (self.word, self.position, self.token_type))

    def _infer(self, batch: PackedBatch) -> Tensor:
        """What the tables and their LayerNorm give, as one kernel."""
        return cofi_kernels.token_embedding(
            batch.input_ids,
            batch.position_ids + self.position_offset if self.position_offset else batch.position_ids,
            None if self.token_type is None else batch.token_type_ids,
            self.word.weight,
            self.position.weight,
            None if self.token_type is None else self.token_type.weight,
            self.norm.weight,
            self.norm.bias,
            self.eps,
        )
