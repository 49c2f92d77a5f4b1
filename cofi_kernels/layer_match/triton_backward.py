"""Layer matching backward in Triton, of the entries of M that have a gradient: which those are is read on the device.

A plan lists the selected layers; their weighted differences r are made once and read by the two products with them. No
sum is atomic: it is repeated to the bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofi_kernels.layer_match.triton_tiles import (
    COUNT,
    inside_columns,
    pick,
    product,
    source_of,
    tile_places,
    transformed,
    valid_tokens,
)


@triton.jit(do_not_specialize=["n_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_plan_kernel(
    dm_ptr,
    source_ptr,
    count_ptr,
    factors_ptr,
    scale_ptr,
    selected_ptr,
    n_tokens,
    N_TEACHER: tl.constexpr,
    N_STUDENT: tl.constexpr,
    E_T: tl.constexpr,
    TEACHER_BLOCK: tl.constexpr,
    STUDENT_BLOCK: tl.constexpr,
):
    """Which student layers have a gradient: selected = [their number, the layers ..., -1 ...] and their factors.

    The gradients of dM (N_TEACHER, N_STUDENT), each given to its source, are divided by the largest, so that no product
    below is too small for fp16; scale is what the results are to be multiplied with.
    """
    t, j = tl.arange(0, TEACHER_BLOCK), tl.arange(0, STUDENT_BLOCK)
    factors = tl.zeros((TEACHER_BLOCK, STUDENT_BLOCK), tl.float32)
    for layer in range(N_STUDENT):
        column = tl.load(dm_ptr + t * N_STUDENT + layer, mask=t < N_TEACHER, other=0.0)
        source = source_of(source_ptr, layer, N_STUDENT)
        factors = tl.where(j[None, :] == source, factors + column[:, None], factors)
    largest = tl.max(tl.abs(factors))
    largest = tl.where(largest == 0.0, 1.0, largest)
    n_elements = valid_tokens(count_ptr, n_tokens).to(tl.float32) * E_T
    tl.store(scale_ptr, largest * 2.0 / n_elements)
    used = tl.sum((factors != 0.0).to(tl.int32), 0) != 0  # a NaN is not 0 either
    place = tl.cumsum(used.to(tl.int32), 0)
    count = tl.sum(used.to(tl.int32))
    inside = (t < N_TEACHER)[:, None] & (j < N_STUDENT)[None, :]
    tl.store(factors_ptr + t[:, None] * N_STUDENT + j[None, :], factors / largest, mask=inside)
    tl.store(selected_ptr + place, j, mask=used)
    unused = (j + 1) - place  # how many of the first j + 1 layers are not used
    tl.store(selected_ptr + count + unused, -1 - j, mask=(unused > 0) & (used == 0) & (j < N_STUDENT))
    tl.store(selected_ptr, count)


@triton.jit(do_not_specialize=["n_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_residual_kernel(
    teacher,
    student,
    weight_ptr,
    bias_ptr,
    factors_ptr,
    selected_ptr,
    count_ptr,
    residual_ptr,
    column_sums_ptr,
    n_tokens,
    N_TEACHER: tl.constexpr,
    N_STUDENT: tl.constexpr,
    E_T: tl.constexpr,
    E_S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """r = sum_t factors[t, layer] (state W^T + b - teacher_t) of the selected layers, one after another (.., T, E_T).

    column_sums (.., blocks of rows, E_T): what dbias is the sum of.
    """
    n_columns: tl.constexpr = (E_T + BLOCK_N - 1) // BLOCK_N
    n_rows, valid = tl.cdiv(n_tokens, BLOCK_M), valid_tokens(count_ptr, n_tokens)
    per_layer = tl.cdiv(valid, BLOCK_M) * n_columns
    for tile in range(tl.program_id(0), tl.load(selected_ptr) * per_layer, tl.num_programs(0)):
        slot, row_block, column_block = tile // per_layer, tile % per_layer // n_columns, tile % n_columns
        layer = tl.load(selected_ptr + 1 + slot)
        first, rows, columns, mask = tile_places(row_block, valid, E_T, column_block, BLOCK_M, BLOCK_N)
        state_ptr = pick(student, layer, N_STUDENT)
        state = transformed(state_ptr, weight_ptr, bias_ptr, first, rows, columns, E_T, E_S, BLOCK_N, BLOCK_K)
        place = rows[:, None] * E_T + columns[None, :]
        residual = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for t in range(N_TEACHER):
            factor = tl.load(factors_ptr + t * N_STUDENT + layer)
            if factor != 0.0:
                target_ptr = pick(teacher, t, N_TEACHER) + first * E_T
                target = tl.load(target_ptr + place, mask=mask, other=0.0)
                residual += factor * (state - target.to(tl.float32))
        residual = tl.where(mask, residual, 0.0)
        slot_ptr = residual_ptr + (slot.to(tl.int64) * n_tokens + first) * E_T
        tl.store(slot_ptr + place, residual.to(residual_ptr.dtype.element_ty), mask=mask)
        sums = column_sums_ptr + (slot * n_rows + row_block) * E_T
        column = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
        tl.store(sums + column, tl.sum(residual, 0), mask=column < E_T)


@triton.jit(do_not_specialize=["n_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_dstudent_kernel(
    residual_ptr,
    weight_ptr,
    scale_ptr,
    selected_ptr,
    count_ptr,
    dstudent,
    n_tokens,
    N_STUDENT: tl.constexpr,
    E_T: tl.constexpr,
    E_S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """scale r W for the selected layers, then zeros for the others, which the list of layers holds as -1 - layer.

    Zeros for padding too.
    """
    n_columns: tl.constexpr = (E_S + BLOCK_N - 1) // BLOCK_N
    per_layer = tl.cdiv(n_tokens, BLOCK_M) * n_columns
    scale, valid = tl.load(scale_ptr), valid_tokens(count_ptr, n_tokens)
    k = tl.arange(0, BLOCK_K)
    for tile in range(tl.program_id(0), N_STUDENT * per_layer, tl.num_programs(0)):
        slot, row_block, column_block = tile // per_layer, tile % per_layer // n_columns, tile % n_columns
        listed = tl.load(selected_ptr + 1 + slot)
        layer = tl.where(listed < 0, -1 - listed, listed)
        first, rows, columns, mask = tile_places(row_block, n_tokens, E_S, column_block, BLOCK_M, BLOCK_N)
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if (listed >= 0) & (first < valid):
            slot_ptr = residual_ptr + (slot.to(tl.int64) * n_tokens + first) * E_T
            left = (valid - first).to(tl.int32)
            a_places = tl.minimum(rows, left - 1)[:, None] * E_T + k[None, :]
            b_places = k[:, None] * E_S + columns[None, :]
            inside = inside_columns(columns, E_S, BLOCK_N)
            total = scale * product(
                slot_ptr, a_places, weight_ptr, b_places, inside, E_T, BLOCK_K, BLOCK_K * E_S, BLOCK_K
            )
            if count_ptr is not None:
                total = tl.where((rows < left)[:, None], total, 0.0)
        out_ptr = pick(dstudent, layer, N_STUDENT) + first * E_S
        tl.store(out_ptr + rows[:, None] * E_S + columns[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_tokens", "part_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_dweight_kernel(
    residual_ptr,
    student,
    selected_ptr,
    count_ptr,
    parts_ptr,
    n_tokens,
    part_tokens,
    N_STUDENT: tl.constexpr,
    E_T: tl.constexpr,
    E_S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """sum over the selected layers of r^T state, part by part of the tokens: parts (.., E_T, E_S) in fp32."""
    n_columns: tl.constexpr = (E_S + BLOCK_N - 1) // BLOCK_N
    tile, part = tl.program_id(0), tl.program_id(1)
    out_rows = tile // n_columns * BLOCK_M + tl.arange(0, BLOCK_M)
    out_columns = tile % n_columns * BLOCK_N + tl.arange(0, BLOCK_N)
    start, end = part * part_tokens, tl.minimum((part + 1) * part_tokens, valid_tokens(count_ptr, n_tokens))
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    slot_ptr = residual_ptr
    for slot in range(0, tl.load(selected_ptr)):
        state_ptr = pick(student, tl.load(selected_ptr + 1 + slot), N_STUDENT)
        for first in range(start, end, BLOCK_K):
            tokens = (first + k).to(tl.int64)
            inside = (tokens < end)[:, None]
            r_mask, state_mask = inside & (out_rows < E_T)[None, :], inside & (out_columns < E_S)[None, :]
            r = tl.load(slot_ptr + tokens[:, None] * E_T + out_rows[None, :], mask=r_mask, other=0.0)
            state = tl.load(state_ptr + tokens[:, None] * E_S + out_columns[None, :], mask=state_mask, other=0.0)
            total = tl.dot(tl.trans(r), state, total, input_precision="ieee")
        slot_ptr += n_tokens.to(tl.int64) * E_T
    mask = (out_rows < E_T)[:, None] & (out_columns < E_S)[None, :]
    out_ptr = parts_ptr + part * (E_T * E_S) + out_rows[:, None] * E_S + out_columns[None, :]
    tl.store(out_ptr, total, mask=mask)


@triton.jit(do_not_specialize=["n_parts", "n_tokens"], do_not_specialize_on_alignment=[COUNT])
def _layer_match_finish_kernel(
    parts_ptr,
    column_sums_ptr,
    scale_ptr,
    selected_ptr,
    count_ptr,
    dweight_ptr,
    dbias_ptr,
    n_parts,
    n_tokens,
    E_T: tl.constexpr,
    E_S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """dweight and dbias: sums over parts and blocks of rows, in their order, times the scale.

    dbias has a program for BLOCK / ROWS columns, which adds ROWS blocks of rows at once: one by one, they would take as
    long as that many reads from the L2 (128 of them for four layers).
    """
    n_weight_programs: tl.constexpr = (E_T * E_S + BLOCK - 1) // BLOCK
    program, scale = tl.program_id(0), tl.load(scale_ptr)
    if program < n_weight_programs:
        index = program * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for part in range(0, n_parts):
            total += tl.load(parts_ptr + part * (E_T * E_S) + index, mask=index < E_T * E_S, other=0.0)
        tl.store(dweight_ptr + index, (scale * total).to(dweight_ptr.dtype.element_ty), mask=index < E_T * E_S)
    else:
        column = (program - n_weight_programs) * (BLOCK // ROWS) + tl.arange(0, BLOCK // ROWS)
        n_blocks, n_valid = tl.cdiv(n_tokens, BLOCK_M), tl.cdiv(valid_tokens(count_ptr, n_tokens), BLOCK_M)
        sums = tl.zeros((ROWS, BLOCK // ROWS), tl.float32)
        for slot in range(0, tl.load(selected_ptr)):
            for first in range(0, n_valid, ROWS):
                block = first + tl.arange(0, ROWS)
                places = (slot * n_blocks + block)[:, None] * E_T + column[None, :]
                mask = (block < n_valid)[:, None] & (column < E_T)[None, :]
                sums += tl.load(column_sums_ptr + places, mask=mask, other=0.0)
        dbias = (scale * tl.sum(sums, 0)).to(dbias_ptr.dtype.element_ty)
        tl.store(dbias_ptr + column, dbias, mask=column < E_T)
