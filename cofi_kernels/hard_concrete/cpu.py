"""Launchers of the C++ kernels: allocate, pass addresses."""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.hard_concrete.reference import zero_point
from cofi_kernels.native import load_native


def hard_concrete(loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    loga, noise = loga.contiguous(), noise.contiguous()
    z = torch.empty_like(loga)
    load_native().hard_concrete(
        loga.data_ptr(),
        **_noise_addresses(noise),
        z=z.data_ptr(),
        n=loga.numel(),
        temperature=temperature,
        threads=torch.get_num_threads(),
    )
    return z


def hard_concrete_backward(dz: Tensor, loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    dz, loga, noise = dz.contiguous(), loga.contiguous(), noise.contiguous()
    dloga = torch.empty_like(loga)
    load_native().hard_concrete_backward(
        dz.data_ptr(),
        loga.data_ptr(),
        **_noise_addresses(noise),
        dloga=dloga.data_ptr(),
        n=loga.numel(),
        temperature=temperature,
        threads=torch.get_num_threads(),
    )
    return dloga


def keep_probability(loga: Tensor, temperature: float) -> Tensor:
    loga = loga.contiguous()
    p = torch.empty_like(loga)
    load_native().keep_probability(
        loga.data_ptr(), p.data_ptr(), loga.numel(), zero_point(temperature), torch.get_num_threads()
    )
    return p


def keep_probability_backward(dp: Tensor, loga: Tensor, temperature: float) -> Tensor:
    dp, loga = dp.contiguous(), loga.contiguous()
    dloga = torch.empty_like(loga)
    load_native().keep_probability_backward(
        dp.data_ptr(),
        loga.data_ptr(),
        dloga.data_ptr(),
        loga.numel(),
        zero_point=zero_point(temperature),
        threads=torch.get_num_threads(),
    )
    return dloga


def deterministic_masks(loga: Tensor, offsets: Tensor, temperature: float, magic_scale: float) -> Tensor:
    checks.partition("offsets", offsets, loga.numel())  # the kernel trusts them
    loga, offsets = loga.contiguous(), offsets.contiguous()
    z = torch.empty_like(loga)
    load_native().deterministic_masks(
        loga.data_ptr(),
        offsets.data_ptr(),
        z.data_ptr(),
        vectors=offsets.numel() - 1,
        zero_point=zero_point(temperature),
        scale=magic_scale / temperature,
        threads=torch.get_num_threads(),
    )
    return z


def live_indices(z: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    checks.partition("offsets", offsets, z.numel())
    z, offsets = z.contiguous(), offsets.contiguous()
    indices = torch.empty_like(z, dtype=torch.int32)
    counts = offsets.new_empty(offsets.numel() - 1)
    load_native().live_indices(
        z.data_ptr(),
        offsets.data_ptr(),
        indices.data_ptr(),
        counts.data_ptr(),
        vectors=offsets.numel() - 1,
        threads=torch.get_num_threads(),
    )
    return indices, counts


def _noise_addresses(noise: Tensor) -> dict[str, int]:
    """Of u and state one is given; 0 stands for the other."""
    is_state = noise.dtype == torch.int64
    return {"u": 0 if is_state else noise.data_ptr(), "state": noise.data_ptr() if is_state else 0}
