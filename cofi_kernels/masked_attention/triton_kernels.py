"""Masked attention on a GPU: live heads alone, in the products of `unit_products` and the kernels of flash_*.py.

One pass over the weights copies the rows of live heads together, casts them and folds the masks into them; it also
lists the heads. From there on everything is dense, of sizes that the kernels read on the device. The workspaces kept
for the backward hold the live heads at the front of their rows: qkv (T, 3 H D), context (T, H D), lse (H, T); so does
`folded`, the copied weights: (3 H D, E) and (H D, E). With z_mha = 0 no head lives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.masked_attention import flash_backward, flash_forward
from cofi_kernels.masked_attention.flash_blocks import Sizes
from cofi_kernels.masking import mask_gradient_like
from cofi_kernels.unit_products import folding, gradients, products, sums, tiling


def forward(
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    head_dim: int,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
    dropout_p: float,
    dropout_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.forward`, with the workspaces packed as described above."""
    x = x.contiguous()
    sizes = _sizes(x, w_out, cu_seqlens, max_seqlen, head_dim)
    width = w_out.shape[0]
    y, qkv, context = torch.empty_like(x), x.new_empty(x.shape[0], 3 * width), x.new_empty(x.shape[0], width)
    lse = x.new_empty(sizes.n_heads * sizes.n_tokens, dtype=torch.float32)
    folded = x.new_empty(4 * width * x.shape[1])
    if x.numel() > 0:
        work = tiling.new_work(x, sizes.n_heads)
        w_in, w_projection = _weights(folded, width)
        b_in, b_projection = (x.new_empty(n, dtype=torch.float32) for n in (3 * width, x.shape[1]))
        masks = folding.contiguous_masks(z_head, z_mha, z_hidden)
        to = folding.Folded(w_in, b_in, w_projection, b_projection)
        folding.fold(w_qkv, b_qkv, w_out, b_out, masks, work, to)
        products.project_in(x, w_in, b_in, qkv, 3 * head_dim, work)
        flash_forward.forward(qkv, work.live, work.n_live, cu_seqlens, sizes, dropout_p, dropout_state, context, lse)
        products.project_out(context, w_projection, b_projection, y, head_dim, work)
    return y, qkv.flatten(), context.flatten(), lse, folded


def backward(
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
    dropout_p: float,
    dropout_state: Tensor | None,
    qkv: Tensor,
    context: Tensor,
    lse: Tensor,
    folded: Tensor,
) -> tuple[Tensor, ...]:
    """As `reference.backward`, from this module's workspaces."""
    dy, x, w_out = dy.contiguous(), x.contiguous(), w_out.contiguous()
    sizes = _sizes(x, w_out, cu_seqlens, max_seqlen, head_dim)
    masks = folding.contiguous_masks(z_head, z_mha, z_hidden)
    work = tiling.new_work(x, sizes.n_heads)
    folding.list_live(masks, work)
    n_tokens, width = x.shape[0], w_out.shape[0]
    w_in, w_projection = _weights(folded, width)
    qkv, context = qkv.view(n_tokens, 3 * width), context.view(n_tokens, width)
    dcontext, dqkv, dx = torch.empty_like(context), torch.empty_like(qkv), torch.empty_like(x)
    dz_head = mask_gradient_like(z_head, x)
    products.project_in(dy, w_projection, None, dcontext, head_dim, work)
    db_blocks = flash_backward.backward(
        *(qkv, context, lse, dcontext, work.live, work.n_live, cu_seqlens, sizes),
        *(masks.unit, dropout_p, dropout_state, dqkv, dz_head),
    )
    products.project_out(dqkv, w_in, None, dx, 3 * head_dim, work)
    dw_qkv, dw_out = w_qkv.new_empty(w_qkv.shape), torch.empty_like(w_out)
    projection = gradients.weight_gradients(
        gradients.Product(dqkv, x, dw_qkv), gradients.Product(context, dy, dw_out[None]), w_out, masks, work
    )
    if db_blocks is None:
        db_blocks = sums.column_blocks(dqkv, 3 * head_dim, work)
    blocks = sums.Sums(db_blocks, sums.column_blocks(dy), projection)
    finished = sums.new_finished(w_qkv.new_empty(w_qkv.shape[:2]), b_out, masks, with_units=False)
    sums.finish(blocks, b_out, masks, 3 * head_dim, work, finished)
    dmasks = (x.new_empty(0) if dz is None else dz for dz in (finished.dz_layer, finished.dz_hidden))
    return dx, dw_qkv, finished.db_in, dw_out, finished.db_out, dz_head, *dmasks


def _sizes(x: Tensor, w_out: Tensor, cu_seqlens: Tensor, max_seqlen: int, head_dim: int) -> Sizes:
    return Sizes(x.shape[0], cu_seqlens.shape[0] - 1, max_seqlen, w_out.shape[0] // head_dim, head_dim)


def _weights(folded: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The in-projection (3 H D, E) and the out-projection (H D, E) in `folded`."""
    if width == 0:
        return folded.view(0, 1), folded.view(0, 1)
    rows = folded.view(4 * width, -1)
    return rows[: 3 * width], rows[3 * width :]
