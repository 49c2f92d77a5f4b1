"""Argument checks shared by every op. Each names the argument, the rule and the value it got."""

from __future__ import annotations

from torch import Tensor, dtype, float32, int32, int64


def shape_is(name: str, t: Tensor, expected: tuple[int | str, ...]) -> None:
    """Check the shape of `t`; a string in `expected` stands for any size and says what it means."""
    wrong = t.dim() != len(expected) or any(
        not isinstance(want, str) and got != want for got, want in zip(t.shape, expected, strict=True)
    )
    if wrong:
        pattern = ", ".join(str(size) for size in expected)
        raise ValueError(f"{name} must have shape ({pattern}), got {tuple(t.shape)}")


def optional_shape_is(name: str, t: Tensor | None, expected: tuple[int | str, ...]) -> None:
    if t is not None:
        shape_is(name, t, expected)


def same_shape(a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{a_name} and {b_name} must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")


def dtype_in(name: str, t: Tensor, allowed: tuple[dtype, ...]) -> None:
    if t.dtype not in allowed:
        names = ", ".join(str(d) for d in allowed)
        raise TypeError(f"{name} must be one of {names}, got {t.dtype}")


def same_device(a_name: str, a: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.device != a.device:
            raise ValueError(f"{a_name} and {name} must share a device, got {a.device} and {other.device}")


def in_range(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    """Check low <= value < high (low < value < high with `low_open`)."""
    if not (low < value if low_open else low <= value) or not value < high:
        bracket = "(" if low_open else "["
        raise ValueError(f"{name} must be in {bracket}{low}, {high}), got {value}")


def beyond_table(name: str, numbers: Tensor, rows: int) -> IndexError:
    """What to raise for numbers of which one is no row of its table."""
    found = f"got {int(numbers.min())} to {int(numbers.max())}"
    return IndexError(f"{name} must be in [0, {rows}), the rows of its table, {found}")


def counter_state(name: str, state: Tensor) -> None:
    """Check that `state` is a counter state of `cofi_kernels.counter_rng`: int64 [seed, offset]."""
    dtype_in(name, state, (int64,))
    shape_is(name, state, (2,))


def partition(name: str, offsets: Tensor, n: int) -> None:
    """Check that offsets on a CPU run from 0 up to n without a step back; on other devices nothing is read."""
    if offsets.device.type != "cpu":
        return
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != n or bounds != sorted(bounds):
        raise ValueError(f"{name} must run from 0 to {n} without a step back, got {bounds}")


def mask(name: str, z: Tensor | None, expected: tuple[int, ...], like: Tensor) -> None:
    """Check an optional mask: `expected` shape, fp32 or the dtype of the activations `like`, on their device."""
    if z is not None:
        shape_is(name, z, expected)
        dtype_in(name, z, (float32, like.dtype))
        same_device("x", like, **{name: z})


def like_x(x: Tensor, **others: Tensor | None) -> None:
    """Check that the other tensors have the dtype of `x` and lie on its device."""
    for name, other in others.items():
        if other is not None and other.dtype != x.dtype:
            raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {other.dtype}")
    same_device("x", x, **others)


def weights(x: Tensor, **others: Tensor) -> None:
    """Check that weights share one dtype, the one of `x` or fp32 (masters under autocast), and lie on its device."""
    first_name, first = next(iter(others.items()))
    if first.dtype not in (x.dtype, float32):
        raise TypeError(f"{first_name} must have the dtype of x, {x.dtype}, or torch.float32, got {first.dtype}")
    for name, other in others.items():
        if other.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {other.dtype}")
    same_device("x", x, **others)


def dropout(p: float, state: Tensor | None, like: Tensor) -> None:
    """Check a dropout probability in [0, 1) and its counter state, which must be there where p > 0."""
    in_range("dropout_p", p, 0.0, 1.0)
    if state is not None:
        counter_state("dropout_state", state)
        same_device("x", like, dropout_state=state)
    elif p > 0.0:
        raise ValueError(f"dropout_state must be given where dropout_p > 0, got None and {p}")


def sequences(cu_seqlens: Tensor, max_seqlen: int, x: Tensor) -> None:
    """Check the form of cu_seqlens (int32, B + 1); what it holds is checked where it is read."""
    shape_is("cu_seqlens", cu_seqlens, ("sequences + 1",))
    dtype_in("cu_seqlens", cu_seqlens, (int32,))
    same_device("x", x, cu_seqlens=cu_seqlens)
    if cu_seqlens.shape[0] < 1:
        raise ValueError("cu_seqlens must hold at least the leading 0, got shape (0,)")
    if max_seqlen < 0:
        raise ValueError(f"max_seqlen must not be negative, got {max_seqlen}")
