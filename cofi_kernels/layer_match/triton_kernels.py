"""Launchers of the Triton kernels of layer matching. No value is read on the host."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from cofi_kernels import grids
from cofi_kernels.layer_match import reference
from cofi_kernels.layer_match.triton_backward import (
    _layer_match_dstudent_kernel,
    _layer_match_dweight_kernel,
    _layer_match_finish_kernel,
    _layer_match_plan_kernel,
    _layer_match_residual_kernel,
)
from cofi_kernels.layer_match.triton_forward import _layer_match_fwd_kernel, _layer_match_mean_kernel

_BLOCK = 1024  # elements a program of the kernels that only add
_ROWS = 32  # of those, rows that are added in one program


class Tile(NamedTuple):
    """Block sizes of a matrix product and how it is launched."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


_TILE = Tile(128, 128, 64, 8, 3)  # bf16 and fp16: 96 KiB of shared memory
_FP32_TILE = Tile(64, 64, 32, 4, 2)  # without tensor cores a larger one spills


def tile_for(dtype: torch.dtype) -> Tile:
    return _FP32_TILE if dtype == torch.float32 else _TILE


def forward(
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Tensor | None,
    n_tokens: Tensor | None,
) -> Tensor:
    """As `reference.forward`, which is what runs in fp64: a dtype for checks alone."""
    if weight.dtype == torch.float64:
        return reference.forward(teacher, student, weight, bias, source, n_tokens)
    teachers, students = _contiguous(teacher), _contiguous(student)
    weight, bias, source = weight.contiguous(), bias.contiguous(), None if source is None else source.contiguous()
    (total, d_teacher), d_student = teachers[0].shape, students[0].shape[1]
    tile = tile_for(weight.dtype)
    n_tiles = triton.cdiv(total, tile.block_m) * triton.cdiv(d_teacher, tile.block_n)
    m = weight.new_empty((len(teachers), len(students)), dtype=torch.float32)
    sums = m.new_empty((*m.shape, n_tiles))
    with torch.cuda.device_of(m):
        _layer_match_fwd_kernel[(grids.multiprocessors(m.device),)](
            teachers,
            students,
            weight,
            bias,
            source,
            n_tokens,
            sums,
            total,
            *m.shape,
            d_teacher,
            d_student,
            *tile[:3],
            **tile.options,
        )
        _layer_match_mean_kernel[(m.numel(),)](
            sums, source, n_tokens, m, total, len(students), d_teacher, tile.block_m, tile.block_n, _BLOCK
        )
    return m


def backward(
    dm: Tensor,
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Tensor | None,
    n_tokens: Tensor | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """As `reference.backward`, which is what runs in fp64."""
    if weight.dtype == torch.float64:
        return reference.backward(dm, teacher, student, weight, bias, source, n_tokens)
    teachers, students = _contiguous(teacher), _contiguous(student)
    weight, bias = weight.contiguous(), bias.contiguous()
    with torch.cuda.device_of(weight):
        selection = _select(dm.contiguous(), source, n_tokens, teachers[0])
        residual, column_sums = _residual(selection, teachers, students, weight, bias)
        dstudent = _dstudent(selection, residual, students, weight)
        dweight, dbias = _dtransform(selection, residual, column_sums, students, weight, bias)
    return dstudent, dweight, dbias


class _Selection(NamedTuple):
    """What the plan's kernel writes: factors (Lt, Ls) and scale () in fp32, selected (Ls + 1,) in int32; n_tokens."""

    factors: Tensor
    scale: Tensor
    selected: Tensor
    n_tokens: Tensor | None


def _select(dm: Tensor, source: Tensor | None, n_tokens: Tensor | None, teacher: Tensor) -> _Selection:
    factors, scale = torch.empty_like(dm), dm.new_empty(())
    selected = dm.new_empty(dm.shape[1] + 1, dtype=torch.int32)
    source = None if source is None else source.contiguous()
    blocks = [triton.next_power_of_2(n) for n in dm.shape]
    _layer_match_plan_kernel[(1,)](
        dm, source, n_tokens, factors, scale, selected, teacher.shape[0], *dm.shape, teacher.shape[1], *blocks
    )
    return _Selection(factors, scale, selected, n_tokens)


def _residual(
    selection: _Selection, teachers: tuple[Tensor, ...], students: tuple[Tensor, ...], weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """r (Ls, T, Et) in the states' dtype, written for the selected layers; its sums over blocks of rows, in fp32."""
    tile, n_tokens = tile_for(weight.dtype), teachers[0].shape[0]
    residual = weight.new_empty((len(students), *teachers[0].shape))
    n_blocks = triton.cdiv(n_tokens, tile.block_m)
    column_sums = selection.scale.new_empty((len(students) * n_blocks, weight.shape[0]))
    _layer_match_residual_kernel[(grids.multiprocessors(weight.device),)](
        teachers,
        students,
        weight,
        bias,
        selection.factors,
        selection.selected,
        selection.n_tokens,
        residual,
        column_sums,
        n_tokens,
        len(teachers),
        len(students),
        *weight.shape,
        *tile[:3],
        **tile.options,
    )
    return residual, column_sums


def _dstudent(selection: _Selection, residual: Tensor, students: tuple[Tensor, ...], weight: Tensor) -> list[Tensor]:
    tile, dstudent = tile_for(weight.dtype), tuple(torch.empty_like(state) for state in students)
    _layer_match_dstudent_kernel[(grids.multiprocessors(weight.device),)](
        residual,
        weight,
        selection.scale,
        selection.selected,
        selection.n_tokens,
        dstudent,
        residual.shape[1],
        len(students),
        *weight.shape,
        *tile[:3],
        **tile.options,
    )
    return list(dstudent)


def _dtransform(
    selection: _Selection,
    residual: Tensor,
    column_sums: Tensor,
    students: tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor]:
    tile, n_tokens = tile_for(weight.dtype), residual.shape[1]
    n_tiles = triton.cdiv(weight.shape[0], tile.block_m) * triton.cdiv(weight.shape[1], tile.block_n)
    n_blocks = triton.cdiv(n_tokens, tile.block_k)
    n_parts = min(n_blocks, max(1, 2 * grids.multiprocessors(weight.device) // n_tiles))  # two programs fit in one
    part_tokens = triton.cdiv(n_blocks, n_parts) * tile.block_k
    parts = column_sums.new_empty((n_parts, *weight.shape))
    _layer_match_dweight_kernel[(n_tiles, n_parts)](
        residual,
        students,
        selection.selected,
        selection.n_tokens,
        parts,
        n_tokens,
        part_tokens,
        len(students),
        *weight.shape,
        *tile[:3],
        **tile.options,
    )
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    n_programs = triton.cdiv(weight.numel(), _BLOCK) + triton.cdiv(bias.numel(), _BLOCK // _ROWS)
    _layer_match_finish_kernel[(n_programs,)](
        parts,
        column_sums,
        selection.scale,
        selection.selected,
        selection.n_tokens,
        dweight,
        dbias,
        n_parts,
        n_tokens,
        *weight.shape,
        tile.block_m,
        _BLOCK,
        _ROWS,
    )
    return dweight, dbias


def _contiguous(states: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(state.contiguous() for state in states)
