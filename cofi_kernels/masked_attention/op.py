"""Public op: argument checks, registration, gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.implementations import on_cpu, triton
from cofi_kernels.library import define_op
from cofi_kernels.masked_attention import reference
from cofi_kernels.masked_attention.flash_tiles import HEAD_DIMS
from cofi_kernels.masking import accumulation_dtype, mask_gradient_like

_LIMITS = f"fp64 and a head_dim other than {', '.join(map(str, HEAD_DIMS))}"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def masked_attention(
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    head_dim: int,
    z_head: Tensor | None = None,
    z_mha: Tensor | None = None,
    z_hidden: Tensor | None = None,
    dropout_p: float = 0.0,
    dropout_state: Tensor | None = None,
) -> Tensor:
    """Attention sublayer under masks: z_hidden * z_mha * (concat_h(z_head[h] * attention_h(x)) W_out + b_out).

    x: (T, E) packed tokens; fp32, bf16, fp16 or fp64; all weights in x's dtype or in fp32 (masters, cast as they are
       used; their gradients are fp32)
    w_qkv: (3, H * D, E), b_qkv: (3, H * D), w_out: (H * D, E) (Hugging Face's transposed), b_out: (E,); H may be 0
    cu_seqlens: int32 (B + 1,) from 0 to T, sequences may be empty; max_seqlen: at least the longest
    head_dim: D
    z_head: (H,), z_mha: 0-dim, z_hidden: (E,), in x's dtype or fp32; an absent mask is 1
    dropout_p, dropout_state: dropout of the attention probabilities, state int64 (2,) [seed, offset]
    returns (T, E), differentiable in every float argument; the gradient of a mask is 0 where the mask is 0.
    Raises ValueError or TypeError for a wrong shape, dtype, device or range. CoFi, section 3 (z_head, z_MHA, z_hidn).
    """
    _check(x, w_qkv, b_qkv, w_out, b_out, head_dim)
    checks.sequences(cu_seqlens, max_seqlen, x)
    checks.dropout(dropout_p, dropout_state, x)
    checks.mask("z_head", z_head, (w_out.shape[0] // head_dim,), x)
    checks.mask("z_mha", z_mha, (), x)
    checks.mask("z_hidden", z_hidden, (x.shape[1],), x)
    masks = (z_head, z_mha, z_hidden)
    return _forward(x, w_qkv, b_qkv, w_out, b_out, cu_seqlens, max_seqlen, head_dim, *masks, dropout_p, dropout_state)[
        0
    ]


def _check(x: Tensor, w_qkv: Tensor, b_qkv: Tensor, w_out: Tensor, b_out: Tensor, head_dim: int) -> None:
    checks.shape_is("x", x, ("tokens", "hidden"))
    checks.dtype_in("x", x, _DTYPES)
    n_hidden = x.shape[1]
    if head_dim < 1:
        raise ValueError(f"head_dim must be positive, got {head_dim}")
    checks.shape_is("w_out", w_out, ("heads * head_dim", n_hidden))
    if w_out.shape[0] % head_dim != 0:
        raise ValueError(f"w_out must have a multiple of head_dim = {head_dim} rows, got {w_out.shape[0]}")
    checks.shape_is("w_qkv", w_qkv, (3, w_out.shape[0], n_hidden))
    checks.shape_is("b_qkv", b_qkv, (3, w_out.shape[0]))
    checks.shape_is("b_out", b_out, (n_hidden,))
    checks.weights(x, w_qkv=w_qkv, b_qkv=b_qkv, w_out=w_out, b_out=b_out)


def _declines(x_or_dy: Tensor, *arguments: Any) -> str | None:
    """Why the GPU's kernels cannot take a call of either op; head_dim stands at the same place in both."""
    head_dim = arguments[6]
    if x_or_dy.dtype == torch.float64:
        return "its kernels compute in fp32, not in torch.float64"
    if head_dim not in HEAD_DIMS:
        return f"its kernels take a head_dim of {', '.join(map(str, HEAD_DIMS))}, not {head_dim}"
    return None


def _fake(
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    head_dim: int,
    *_: Any,
) -> tuple[Tensor, ...]:
    n_tokens, width = x.shape[0], w_out.shape[0]
    lse = x.new_empty(width // head_dim * n_tokens, dtype=accumulation_dtype(x.dtype))
    workspaces = (x.new_empty(n_tokens * 3 * width), x.new_empty(n_tokens * width), lse)
    return x.new_empty(x.shape), *workspaces, x.new_empty(reference.folded_numel(x, w_out))


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    w_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    head_dim: int,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    shapes = (w_qkv.shape, w_qkv.shape[:2], w_out.shape, b_out.shape)
    weights = (w_qkv.new_empty(shape) for shape in shapes)
    return x.new_empty(x.shape), *weights, *(mask_gradient_like(z, x) for z in (z_head, z_mha, z_hidden))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w_qkv, _, w_out, b_out, cu_seqlens, max_seqlen, head_dim, z_head, z_mha, z_hidden, p, state = inputs
    saved = output[1:]
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)  # zero gradients for them would cost as much memory as they do
    ctx.max_seqlen, ctx.head_dim, ctx.dropout_p = max_seqlen, head_dim, p
    ctx.save_for_backward(x, w_qkv, w_out, b_out, cu_seqlens, z_head, z_mha, z_hidden, state, *saved)


def _backward_formula(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:  # autograd's zero, which set_materialize_grads leaves as it is
        return (None,) * 13
    x, w_qkv, w_out, b_out, cu_seqlens, z_head, z_mha, z_hidden, state, *saved = ctx.saved_tensors
    sizes, masks = (ctx.max_seqlen, ctx.head_dim), (z_head, z_mha, z_hidden)
    grads = _backward(dy, x, w_qkv, w_out, b_out, cu_seqlens, *sizes, *masks, ctx.dropout_p, state, *saved)
    dmasks = (None if z is None else dz for z, dz in zip(masks, grads[5:], strict=True))
    return *grads[:5], None, None, None, *dmasks, None, None


_backward = define_op(
    "masked_attention_backward(Tensor dy, Tensor x, Tensor w_qkv, Tensor w_out, Tensor b_out, Tensor cu_seqlens, "
    "SymInt max_seqlen, SymInt head_dim, Tensor? z_head, Tensor? z_mha, Tensor? z_hidden, float dropout_p, "
    "Tensor? dropout_state, Tensor qkv, Tensor context, Tensor lse, Tensor folded) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.backward,
    fake=_fake_backward,
    implementations=[
        on_cpu(__package__, "gathered", "backward"),
        triton(__package__, "backward", _declines, _LIMITS),
    ],
)
_forward = define_op(
    "masked_attention(Tensor x, Tensor w_qkv, Tensor b_qkv, Tensor w_out, Tensor b_out, Tensor cu_seqlens, "
    "SymInt max_seqlen, SymInt head_dim, Tensor? z_head, Tensor? z_mha, Tensor? z_hidden, float dropout_p, "
    "Tensor? dropout_state) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.forward,
    fake=_fake,
    implementations=[
        on_cpu(__package__, "gathered", "forward"),
        triton(__package__, "forward", _declines, _LIMITS),
    ],
    backward=_backward_formula,
    setup_context=_setup_context,
)
