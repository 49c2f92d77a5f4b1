"""What a compact encoder is made of: one width per layer and sublayer."""

from __future__ import annotations

from dataclasses import dataclass

from cofi_kernels.compact_encoder.low_precision import check_depth
from cofi_kernels.masked_ffn.activations import get_activation

LAYER_WEIGHTS = (
    "w_qkv",
    "b_qkv",
    "w_out",
    "b_out",
    "attention_norm_weight",
    "attention_norm_bias",
    "w_up",
    "b_up",
    "w_down",
    "b_down",
    "ffn_norm_weight",
    "ffn_norm_bias",
)
PRECISIONS = ("fp32", "int8", "bf16")  # as csrc/cpu/compact_encoder/linear.h counts them
N_ATTENTION_WEIGHTS = 6  # the first of them belong to the attention sublayer, the others to the FFN


@dataclass(frozen=True)
class EncoderLayout:
    """Structure of an encoder that differs in every layer. Each tuple has one entry a layer.

    A sublayer whose flag is False is removed: an exact identity. One that is kept with no unit left adds its bias and
    normalises. precision: what the products with weights are computed in; "fp32" stands for the dtype of the weights,
    "int8" and "bf16" convert both factors as the family's README says, on a CPU.

    Raises ValueError for tuples of different lengths, counts that are negative or belong to a removed sublayer, an
    unknown activation or precision, and heads too wide together for int8.
    """

    heads: tuple[int, ...]
    intermediate: tuple[int, ...]
    mha: tuple[bool, ...]
    ffn: tuple[bool, ...]
    head_dim: int
    eps: float
    activation: str
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, flags in (("intermediate", self.intermediate), ("mha", self.mha), ("ffn", self.ffn)):
            if len(flags) != len(self.heads):
                raise ValueError(f"{name} must have one entry for each of {len(self.heads)} layers, got {len(flags)}")
        _check_counts("heads", self.heads, "mha", self.mha)
        _check_counts("intermediate", self.intermediate, "ffn", self.ffn)
        if self.head_dim < 1:
            raise ValueError(f"head_dim must be positive, got {self.head_dim}")
        if not self.eps > 0.0:
            raise ValueError(f"eps must be positive, got {self.eps}")
        get_activation(self.activation)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        check_depth("heads times head_dim", max(self.heads, default=0) * self.head_dim, self.precision)

    @property
    def n_layers(self) -> int:
        return len(self.heads)


def _check_counts(name: str, counts: tuple[int, ...], flag_name: str, flags: tuple[bool, ...]) -> None:
    for i, (count, kept) in enumerate(zip(counts, flags, strict=True)):
        if count < 0:
            raise ValueError(f"{name}[{i}] must not be negative, got {count}")
        if count > 0 and not kept:
            raise ValueError(f"{name}[{i}] must be 0 where {flag_name}[{i}] is False, got {count}")


def weight_shapes(layout: EncoderLayout, n_hidden: int) -> tuple[tuple[int, ...] | None, ...]:
    """Shape of every weight in the order of LAYER_WEIGHTS, layer by layer; None for those of removed sublayers."""
    shapes: list[tuple[int, ...] | None] = []
    vector = (n_hidden,)
    for heads, intermediate, mha, ffn in zip(layout.heads, layout.intermediate, layout.mha, layout.ffn, strict=True):
        width = heads * layout.head_dim
        attention = ((3, width, n_hidden), (3, width), (width, n_hidden), vector, vector, vector)
        feed_forward = ((intermediate, n_hidden), (intermediate,), (intermediate, n_hidden), vector, vector, vector)
        shapes += attention if mha else (None,) * len(attention)
        shapes += feed_forward if ffn else (None,) * len(feed_forward)
    return tuple(shapes)
