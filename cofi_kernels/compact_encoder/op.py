"""Public op: argument checks and registration. It is for inference: it has no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.compact_encoder import reference
from cofi_kernels.compact_encoder.layout import LAYER_WEIGHTS, EncoderLayout, weight_shapes
from cofi_kernels.compact_encoder.packed import PackedEncoder, find_packed
from cofi_kernels.compact_encoder.padded import DTYPES, MOST_HEAD_DIM, MOST_HIDDEN, why_not
from cofi_kernels.implementations import cpu, cuda, triton, unverified
from cofi_kernels.library import define_op, is_recorded, runs_on

_LIMITS = "fp32 and fp64"
_TRITON_LIMITS = f"{_LIMITS}, more than {MOST_HIDDEN} hidden dims, more than {MOST_HEAD_DIM} dims a head"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def compact_encoder(
    x: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    weights: Sequence[Tensor],
    layout: EncoderLayout,
    *,
    overwrite_x: bool = False,
) -> Tensor:
    """All layers of a pruned encoder as one call, for inference.

    x: (T, E) packed embeddings; fp32, bf16, fp16 or fp64, and so are all weights
    cu_seqlens: int32 (B + 1,) from 0 to T, sequences may be empty; max_seqlen: at least the longest
    weights: 12 a layer in the order of LAYER_WEIGHTS, shaped as `masked_attention` and `masked_ffn` take them, with
        the masks folded in; tensors of size zero for removed sublayers
    overwrite_x: x is not needed any more: its memory may become the result's. On a CPU a second buffer of that size
        doubles what the C library hands back to the system and gets back, page by page, at every call
    returns the last layer's states (T, E), without a gradient.
    Raises ValueError or TypeError for a wrong count, shape, dtype or device (precisions below fp32 are for a CPU), and
    RuntimeError where a gradient is asked for: train with the masked ops.
    """
    checks.shape_is("x", x, ("tokens", "hidden"))
    checks.dtype_in("x", x, _DTYPES)
    checks.sequences(cu_seqlens, max_seqlen, x)
    if layout.precision != "fp32" and x.device.type != "cpu":
        raise ValueError(f"layout.precision must be 'fp32' on a {x.device.type} device, got {layout.precision!r}")
    packed = _packed_before(x, weights, layout)
    if packed is not None:
        return packed(x, cu_seqlens, max_seqlen, overwrite_x)
    _check_weights(weights, layout, x)
    counts = (list(layout.heads), list(layout.intermediate), list(layout.mha), list(layout.ffn))
    settings = (layout.head_dim, layout.eps, layout.activation, layout.precision)
    return _forward(x, cu_seqlens, max_seqlen, list(weights), *counts, *settings)


def _packed_before(x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout) -> PackedEncoder | None:
    """These weights as the CPU backend packed them at an earlier call, when they passed the checks below.

    It spares the dispatcher a list of a hundred tensors: 0.2 ms, where a pruned encoder takes 0.7 ms for a sentence.
    """
    if type(x) is not Tensor or x.dtype is not torch.float32 or x.device.type != "cpu":
        return None  # of what the packed weights know nothing
    if torch.is_grad_enabled() or is_recorded():
        return None
    return find_packed(x, weights, layout) if runs_on("compact_encoder", "cpu") == "cpu" else None


def _check_weights(weights: Sequence[Tensor], layout: EncoderLayout, x: Tensor) -> None:
    shapes = weight_shapes(layout, x.shape[1])
    if len(weights) != len(shapes):
        expected = f"{len(LAYER_WEIGHTS)} tensors for each of {layout.n_layers} layers"
        raise ValueError(f"weights must hold {expected}, got {len(weights)}")
    for i, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        if weight.dtype == x.dtype and weight.device == x.device and (weight.shape == shape or shape is None):
            continue
        name = f"weights[{i}] ({LAYER_WEIGHTS[i % len(LAYER_WEIGHTS)]} of layer {i // len(LAYER_WEIGHTS)})"
        if shape is not None:
            checks.shape_is(name, weight, shape)
        checks.like_x(x, **{name: weight})


def _declines_triton(x: Tensor, *arguments: Any) -> str | None:
    """Why the Triton kernels leave a call to the reference."""
    return why_not(x, head_dim=arguments[7])


def _declines_cuda(x: Tensor, *_: Any) -> str | None:
    """The same of the persistent kernel. What else it cannot take it hands to the Triton kernels, and says so."""
    return None if x.dtype in DTYPES else f"its kernel computes in bf16 and fp16, not in {x.dtype}"


def _refuse_gradient(ctx: Any, *_: Any) -> None:
    raise RuntimeError("compact_encoder has no gradient: call it under torch.inference_mode() or torch.no_grad()")


_forward = define_op(
    "compact_encoder(Tensor x, Tensor cu_seqlens, SymInt max_seqlen, Tensor[] weights, int[] heads, "
    "int[] intermediate, bool[] mha, bool[] ffn, SymInt head_dim, float eps, str activation, str precision) -> Tensor",
    reference=reference.forward,
    implementations=[
        cpu(__package__, "forward"),
        unverified(triton(__package__, "forward", _declines_triton, _TRITON_LIMITS)),
        unverified(cuda(__package__, "forward", _declines_cuda, _LIMITS)),
    ],
    fake=lambda x, *_: x.new_empty(x.shape),
    backward=_refuse_gradient,
    setup_context=lambda ctx, inputs, output: None,
)
