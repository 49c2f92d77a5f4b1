"""One way to register an op: schema, reference, faster implementations, fake kernel and gradient.

The reference is always there and runs on any device. Faster implementations are listed best first; the
first that can run on this machine is taken, once, at the first call. `COFI_BACKEND=reference` (or the context
manager `force_backend`) takes the reference everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

NAMESPACE = "cofi_kernels"
DEVICES = ("cpu", "cuda")
FORCIBLE = ("auto", "reference")

_LIB = torch.library.Library(NAMESPACE, "DEF")


class Implementation(NamedTuple):
    """A faster way to compute an op than its reference."""

    backend: str  # a word for reports: "cpu", "gathered", "triton", "cuda"
    device: str  # "cpu" or "cuda"
    load: Callable[[], Callable[..., Any]]  # imports late; returns a function of the op's signature
    why_not: Callable[[], str | None]  # None where it can run on this machine, otherwise the reason
    declines: Callable[..., str | None] | None = None  # asked with a call's arguments: why the reference must take it
    limits: str = ""  # for reports: which calls those are


class Choice(NamedTuple):
    """What an op runs on for one device type, and what was passed over."""

    op: str
    device: str
    backend: str
    passed_over: tuple[tuple[str, str], ...]  # (backend, reason), best first
    limits: str = ""  # which calls go to the reference all the same


class _Op:
    """The implementations of one registered op and the choice made for each device type."""

    def __init__(self, name: str, reference: Callable[..., Any], implementations: Sequence[Implementation]) -> None:
        self.name = name
        self.reference = reference
        self.implementations = tuple(implementations)
        self._chosen: dict[str, Callable[..., Any]] = {}

    def choose(self, device: str) -> tuple[Choice, Callable[[], Callable[..., Any]]]:
        if _forced == "reference":
            return Choice(self.name, device, "reference", ()), lambda: self.reference
        passed_over: list[tuple[str, str]] = []
        for item in self.implementations:
            if item.device != device:
                continue
            reason = item.why_not()
            if reason is None:
                choice = Choice(self.name, device, item.backend, tuple(passed_over), item.limits)
                return choice, functools.partial(self._load, item)
            passed_over.append((item.backend, reason))
        return Choice(self.name, device, "reference", tuple(passed_over)), lambda: self.reference

    def _load(self, item: Implementation) -> Callable[..., Any]:
        """The implementation's function, which hands calls that it declines to the reference, and says so."""
        run, declines = item.load(), item.declines
        if declines is None:
            return run

        def run_or_reference(*args: Any) -> Any:
            reason = declines(*args)
            if reason is None:
                return run(*args)
            _warn_passed_over(Choice(self.name, item.device, "reference", ((item.backend, reason),)))
            return self.reference(*args)

        return run_or_reference

    def call(self, device: str, *args: Any) -> Any:
        run = self._chosen.get(device)
        if run is None:
            choice, load = self.choose(device)
            _warn_passed_over(choice)
            run = self._chosen[device] = load()
        return run(*args)

    def forget(self) -> None:
        self._chosen.clear()


_OPS: dict[str, _Op] = {}
_warned: set[tuple[str, str]] = set()


def _read_environment() -> str:
    value = os.environ.get("COFI_BACKEND", "auto")
    if value not in FORCIBLE:
        raise ValueError(f"COFI_BACKEND must be one of {', '.join(FORCIBLE)}, got {value!r}")
    return value


_forced = _read_environment()


@contextlib.contextmanager
def force_backend(name: str) -> Iterator[None]:
    """Run every op on the backend `name` ("auto" or "reference") inside the block.

    Raises ValueError for another name. For tests and debugging: graphs compiled before keep what they were traced with,
    and a backward belongs into the block of its forward, as what is kept for it has the backend's own layout.
    """
    global _forced
    if name not in FORCIBLE:
        raise ValueError(f"backend must be one of {', '.join(FORCIBLE)}, got {name!r}")
    before, _forced = _forced, name
    _forget_choices()
    try:
        yield
    finally:
        _forced = before
        _forget_choices()


def is_forced() -> bool:
    """Whether every op runs on its reference, by COFI_BACKEND or `force_backend`."""
    return _forced != "auto"


def is_recorded() -> bool:
    """Whether something follows which operators run, a compiler, a tracer or a counter: then no shortcut past them."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def _forget_choices() -> None:
    for op in _OPS.values():
        op.forget()


def _warn_passed_over(choice: Choice) -> None:
    """Say once per reason that something slower than this package could offer is being used."""
    for backend, reason in choice.passed_over:
        if (backend, reason) in _warned:
            continue
        _warned.add((backend, reason))
        warnings.warn(
            f"cofi_kernels: {choice.op} runs on '{choice.backend}' instead of '{backend}': {reason}. "
            "See cofi_kernels.backends().",
            RuntimeWarning,
            stacklevel=2,
        )


def define_op(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    implementations: Sequence[Implementation] = (),
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register the op `schema` and return it.

    schema:          as torch.library takes it, without the namespace: "f(Tensor x, float p) -> Tensor"
    reference:       the definition, positional arguments in schema order, any device
    fake:            shapes and dtypes of the outputs, same arguments
    implementations: faster ways, best first within a device
    backward, setup_context: as torch.library.register_autograd takes them; both or neither
    """
    name = schema.split("(")[0]
    op = _OPS[name] = _Op(name, reference, implementations)
    _LIB.define(schema)
    for device in DEVICES:
        _LIB.impl(name, _dispatcher(op, device), device.upper())
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIB)
    if backward is not None:
        torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_LIB)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _dispatcher(op: _Op, device: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return op.call(device, *args)

    return run


def runs_on(name: str, device: str) -> str:
    """The backend that the op `name` runs on for tensors of a device type."""
    return _OPS[name].choose(device)[0].backend


class Backends(tuple[Choice, ...]):
    """What every op runs on, as a tuple of `Choice` that prints as a table."""

    def __str__(self) -> str:
        rows = [("op", "device", "runs on", "why not something faster")]
        for choice in self:
            reasons = [f"{backend}: {reason}" for backend, reason in choice.passed_over]
            why = "; ".join([*reasons, f"reference for {choice.limits}"] if choice.limits else reasons)
            rows.append((choice.op, choice.device, choice.backend, why or "-"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows)


def backends() -> Backends:
    """Say for this machine what each op runs on, per device type, and why not something faster."""
    devices = DEVICES if torch.cuda.is_available() else DEVICES[:1]
    return Backends(op.choose(device)[0] for op in _OPS.values() for device in devices)
