"""What the Triton kernels of layer matching share: which layer a tile belongs to, and the transform of a tile.

T packed tokens; the layers are tuples of pointers.
"""

from __future__ import annotations

import triton
import triton.language as tl

# An element of the batch's bounds: whether it lies at a multiple of 16 bytes depends on the number of sequences, and
# Triton would compile for both, a second time in the middle of an epoch.
COUNT = "count_ptr"


@triton.jit
def pick(pointers, index, N: tl.constexpr):
    """pointers[index] for an index that only the device knows."""
    chosen = pointers[0]
    for k in tl.static_range(1, N):
        chosen = tl.where(index == k, pointers[k], chosen)
    return chosen


@triton.jit
def source_of(source_ptr, layer, N_STUDENT: tl.constexpr):
    """The layer whose state student layer `layer` repeats, inside the layers whatever the tensor holds."""
    source = layer
    if source_ptr is not None:
        source = tl.load(source_ptr + layer).to(tl.int32)
        source = tl.minimum(tl.maximum(source, 0), N_STUDENT - 1)
    return source


@triton.jit
def valid_tokens(count_ptr, n_tokens):
    """How many of the tokens count: all, or those before the padding; never none, of which there is no mean."""
    valid = n_tokens
    if count_ptr is not None:
        valid = tl.minimum(tl.maximum(tl.load(count_ptr).to(tl.int32), 1), n_tokens)
    return valid


@triton.jit
def distinct_layers(source_ptr, N_STUDENT: tl.constexpr):
    """How many student layers repeat no other."""
    count = 0
    for j in tl.static_range(N_STUDENT):
        count += (source_of(source_ptr, j, N_STUDENT) == j).to(tl.int32)
    return count


@triton.jit
def nth_distinct_layer(source_ptr, n, N_STUDENT: tl.constexpr):
    """The n-th student layer that repeats no other."""
    layer, seen = 0, 0
    for j in tl.static_range(N_STUDENT):
        is_distinct = source_of(source_ptr, j, N_STUDENT) == j
        layer = tl.where(is_distinct & (seen == n), j, layer)
        seen += is_distinct.to(tl.int32)
    return layer


@triton.jit
def product(
    a_ptr,
    a_places,
    b_ptr,
    b_places,
    columns_mask,
    N_K: tl.constexpr,
    A_STEP: tl.constexpr,
    B_STEP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """a (M, BLOCK_K) b (BLOCK_K, N) summed over N_K in fp32, zeros past N_K and outside columns_mask.

    Both lie at int32 places from their pointer, which moves on by their step a block: carried pointers of every element
    would take 128 registers.
    """
    total = tl.zeros((a_places.shape[0], b_places.shape[1]), tl.float32)
    k = tl.arange(0, BLOCK_K)
    for first in range(0, N_K, BLOCK_K):
        inside = first + k < N_K
        if N_K % BLOCK_K == 0:
            a = tl.load(a_ptr + a_places)
        else:
            a = tl.load(a_ptr + a_places, mask=inside[None, :], other=0.0)
        if N_K % BLOCK_K != 0 and columns_mask is not None:
            b = tl.load(b_ptr + b_places, mask=inside[:, None] & columns_mask[None, :], other=0.0)
        elif N_K % BLOCK_K != 0:
            b = tl.load(b_ptr + b_places, mask=inside[:, None], other=0.0)
        elif columns_mask is not None:
            b = tl.load(b_ptr + b_places, mask=columns_mask[None, :], other=0.0)
        else:
            b = tl.load(b_ptr + b_places)
        total = tl.dot(a, b, total, input_precision="ieee")
        a_ptr += A_STEP
        b_ptr += B_STEP
    return total


@triton.jit
def inside_columns(columns, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Mask of the columns of a matrix N wide; None where every block is full, which spares its loads the comparison."""
    mask = None
    if N % BLOCK_N != 0:
        mask = columns < N
    return mask


@triton.jit
def tile_places(row_block, n_tokens, N: tl.constexpr, column_block, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of a tile of a (T, N) matrix: the token of its first row, its rows from there, its columns, the mask.

    Rows past the end are brought inside; columns are not, as a load is only wide along columns that ascend by one.
    """
    first = row_block.to(tl.int64) * BLOCK_M
    rows, columns = tl.arange(0, BLOCK_M), column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    left = (n_tokens - first).to(tl.int32)
    mask = (rows < left)[:, None] & (columns < N)[None, :]
    return first, tl.minimum(rows, left - 1), columns, mask


@triton.jit
def transformed(
    state_ptr,
    weight_ptr,
    bias_ptr,
    first,
    rows,
    columns,
    E_T: tl.constexpr,
    E_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of state W^T + b in fp32."""
    k = tl.arange(0, BLOCK_K)
    units = columns
    if E_T % BLOCK_N != 0:
        units = tl.minimum(columns, E_T - 1)
    a_places = rows[:, None] * E_S + k[None, :]
    b_places = units[None, :] * E_S + k[:, None]
    state = product(state_ptr + first * E_S, a_places, weight_ptr, b_places, None, E_S, BLOCK_K, BLOCK_K, BLOCK_K)
    return state + tl.load(bias_ptr + units).to(tl.float32)[None, :]
