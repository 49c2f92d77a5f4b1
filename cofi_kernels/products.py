"""Matrix products on the CPU, by our microkernels where they are faster than PyTorch's BLAS.

One thread of an AMD EPYC with AVX-512, whose multipliers allow 256 GFLOP/s: MKL, behind torch.matmul, reaches 104 (it
runs AVX2 there), oneDNN 224, ours 230 to 268 with one operand packed; packing is a pass over that operand.

One thread of an Intel Xeon (Emerald Rapids) with AMX, products of a training step, packing included: fp32 by AVX-512
115 to 147 GFLOP/s, fp32 in three bf16 pieces 96 to 207, factors rounded to bf16 388 to 563. The last is for those who
say `torch.set_float32_matmul_precision("medium")`, as in PyTorch itself.

One thread of an AMD EPYC without AVX-512 (Zen 3): both 81 to 97 GFLOP/s, where 98 are the limit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.masking import times
from cofi_kernels.native import address, load_native

LEAST_ROWS = 16  # below, packing b costs as much as multiplying with it
# in pieces, 350 x 384 by 96 columns: 114 GFLOP/s against 132; 384 x 4,096 by 384: 106 against 100, by 2,048: 134 to 119
LEAST_COLUMNS_FOR_PIECES, DEEPEST_FOR_PIECES = 128, 2048
LEAST_WORK = 1 << 18  # multiplications: some 2 us, what a call costs


def matmul(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    *,
    k_scale: Tensor | None = None,
    n_scale: Tensor | None = None,
) -> Tensor:
    """a (M, K) @ (k_scale[:, None] * b (K, N) * n_scale) + bias (N,), into `out` (M, N) where it is given.

    fp32 factors are rounded to bf16 under `torch.set_float32_matmul_precision("medium")`, or where
    `torch.backends.mkldnn.matmul.fp32_precision` is "bf16", on processors with AMX; sums stay fp32. Otherwise the
    result is fp32's own.

    Any dtype and strides; fp32 matrices stored by rows or by columns (a `.t()` of one) take the fast way, in which the
    scales (K,) and (N,), masks as a rule, cost nothing: b is copied into another order anyway.
    """
    (m, k), n = a.shape, b.shape[1]
    fast = m >= LEAST_ROWS and m * n * k >= LEAST_WORK and _has_vectors() and _all_plain(a, b, bias, k_scale, n_scale)
    if not fast or (out is not None and not (_is_plain(out) and out.stride(1) == 1)):
        return _by_torch(a, times(b, None if k_scale is None else k_scale[:, None], n_scale), bias, out)
    if out is None:
        out = a.new_empty((m, n))
    a_by_columns, b_by_columns = a.stride(1) != 1, b.stride(1) != 1
    load_native().matmul(
        a=a.data_ptr(),
        lda=a.stride(1 if a_by_columns else 0),
        a_by_columns=a_by_columns,
        b=b.data_ptr(),
        ldb=b.stride(1 if b_by_columns else 0),
        b_by_columns=b_by_columns,
        bias=address(bias),
        c=out.data_ptr(),
        ldc=out.stride(0),
        m=m,
        n=n,
        k=k,
        threads=torch.get_num_threads(),
        k_scale=address(k_scale),
        n_scale=address(n_scale),
        number=_number(n, k),
    )
    return out


def has_fast_bf16() -> bool:
    """Whether products of bf16 factors are faster than those of fp32 on this CPU."""
    native = load_native()
    return native is not None and native.has_amx()


def _number(n: int, k: int) -> str:
    """What the factors become on their way."""
    if not has_fast_bf16():
        return "fp32"
    # not torch.get_float32_matmul_precision(), which raises where a setting of one backend differs from the others
    if torch.backends.mkldnn.matmul.fp32_precision == "bf16":  # type: ignore[attr-defined]  # made at run time
        return "bf16"
    return "split" if n >= LEAST_COLUMNS_FOR_PIECES and k <= DEEPEST_FOR_PIECES else "fp32"


def _has_vectors() -> bool:
    native = load_native()
    return native is not None and native.isa() != "portable"


def _all_plain(a: Tensor, b: Tensor, *vectors: Tensor | None) -> bool:
    fit = (v is None or (v.dtype == torch.float32 and v.is_contiguous()) for v in vectors)
    return _is_plain(a) and _is_plain(b) and all(fit)


def _is_plain(t: Tensor) -> bool:
    """fp32 on a CPU with one stride of 1; rows, or columns, that do not overlap."""
    if t.dtype != torch.float32 or t.device.type != "cpu":
        return False
    rows, columns = t.stride()
    return (columns == 1 and rows >= t.shape[1]) or (rows == 1 and columns >= t.shape[0])


def _by_torch(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    return torch.mm(a, b, out=out) if bias is None else torch.addmm(bias, a, b, out=out)
