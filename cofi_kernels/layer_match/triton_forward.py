"""Layer matching forward in Triton: a layer's transform with its differences from all teacher layers as the epilogue.

Which student layers are distinct is read on the device, so one grid of fixed size serves whatever the masks leave: a
program takes every n-th tile of the work there is. Of the transformed states nothing is written but sums.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofi_kernels.layer_match.triton_tiles import (
    COUNT,
    distinct_layers,
    nth_distinct_layer,
    pick,
    source_of,
    tile_places,
    transformed,
    valid_tokens,
)


@triton.jit(do_not_specialize=["n_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_fwd_kernel(
    teacher,
    student,
    weight_ptr,
    bias_ptr,
    source_ptr,
    count_ptr,
    sums_ptr,
    n_tokens,
    N_TEACHER: tl.constexpr,
    N_STUDENT: tl.constexpr,
    E_T: tl.constexpr,
    E_S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums of squared differences of every tile, sums (N_TEACHER, N_STUDENT, tiles).

    A block of tokens goes through all its layers before the next one: the teacher's tiles are then read from memory
    once and from the L2 after that.
    """
    n_columns: tl.constexpr = (E_T + BLOCK_N - 1) // BLOCK_N
    n_rows, valid = tl.cdiv(n_tokens, BLOCK_M), valid_tokens(count_ptr, n_tokens)
    n_layers = distinct_layers(source_ptr, N_STUDENT)
    per_row = n_layers * n_columns
    for tile in range(tl.program_id(0), tl.cdiv(valid, BLOCK_M) * per_row, tl.num_programs(0)):
        row_block, column_block = tile // per_row, tile % n_columns
        layer = nth_distinct_layer(source_ptr, tile % per_row // n_columns, N_STUDENT)
        first, rows, columns, mask = tile_places(row_block, valid, E_T, column_block, BLOCK_M, BLOCK_N)
        state_ptr = pick(student, layer, N_STUDENT)
        state = transformed(state_ptr, weight_ptr, bias_ptr, first, rows, columns, E_T, E_S, BLOCK_N, BLOCK_K)
        sums_row = sums_ptr + layer * (n_rows * n_columns) + row_block * n_columns + column_block
        for t in range(N_TEACHER):  # not unrolled: several targets at once take more registers than there are
            target_ptr = pick(teacher, t, N_TEACHER) + first * E_T
            target = tl.load(target_ptr + rows[:, None] * E_T + columns[None, :], mask=mask, other=0.0)
            difference = tl.where(mask, state - target.to(tl.float32), 0.0)
            tl.store(sums_row + t * N_STUDENT * (n_rows * n_columns), tl.sum(difference * difference))


@triton.jit(do_not_specialize=["n_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_mean_kernel(
    sums_ptr,
    source_ptr,
    count_ptr,
    m_ptr,
    n_tokens,
    N_STUDENT: tl.constexpr,
    E_T: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program an entry of M: the mean over the tiles of its source's sums."""
    n_columns: tl.constexpr = (E_T + BLOCK_N - 1) // BLOCK_N
    entry, valid = tl.program_id(0), valid_tokens(count_ptr, n_tokens)
    source = source_of(source_ptr, entry % N_STUDENT, N_STUDENT)
    row_ptr = sums_ptr + (entry // N_STUDENT * N_STUDENT + source) * (tl.cdiv(n_tokens, BLOCK_M) * n_columns)
    n_tiles = tl.cdiv(valid, BLOCK_M) * n_columns
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n_tiles, BLOCK):
        index = first + tl.arange(0, BLOCK)
        total += tl.load(row_ptr + index, mask=index < n_tiles, other=0.0)
    tl.store(m_ptr + entry, tl.sum(total) / (valid.to(tl.float32) * E_T))
