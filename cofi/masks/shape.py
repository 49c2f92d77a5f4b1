"""The sizes of the encoder that is pruned, and what its parts cost in parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the dense encoder: L layers, H heads of size D each, hidden size E, intermediate size I.

    Raises ValueError where a size is not a positive integer.
    """

    n_layers: int
    n_heads: int
    head_dim: int
    d_hidden: int
    d_int: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field.name} must be an integer of at least 1, got {value!r}")

    @property
    def head_cost(self) -> int:
        """Parameters of one head: its share of the four projections with their biases (official params_per_head)."""
        inner = self.n_heads * self.head_dim
        return (4 * self.d_hidden * inner + 3 * inner + self.d_hidden) // self.n_heads

    @property
    def _ffn_cost(self) -> int:
        # The official count takes 4E for the up-projection's bias whatever I is. Kept: the prunable size must mean
        # the same number of parameters as in the paper's runs, and for I = 4E (all published models) it is exact.
        return 2 * self.d_hidden * self.d_int + self.d_hidden + 4 * self.d_hidden

    @property
    def int_cost(self) -> int:
        """Parameters of one intermediate dim (official params_per_intermediate_dim)."""
        return self._ffn_cost // self.d_int

    @property
    def head_weights(self) -> int:
        """Weights of one head, without biases: its rows of query, key, value and output."""
        return 4 * self.head_dim * self.d_hidden

    @property
    def int_weights(self) -> int:
        """Weights of one intermediate dim, without biases: its rows of the two projections."""
        return 2 * self.d_hidden

    @property
    def prunable_size(self) -> int:
        """Parameters that can be pruned: attention and FFN of every layer, without embeddings, LayerNorms and head."""
        return self.n_layers * (self.n_heads * self.head_cost + self._ffn_cost)


def evenly_spaced(n_layers: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced layers of `n_layers`, the last one included; all of them where there are fewer.

    Raises ValueError for sizes below 1.
    """
    for name, value in (("n_layers", n_layers), ("count", count)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    count = min(count, n_layers)
    return tuple(-(-n_layers * (k + 1) // count) - 1 for k in range(count))
