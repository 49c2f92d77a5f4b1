"""What every case is handed: sizes, the machine's ceilings, the clock and the record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench import measure
from bench.gpu.clock import Contestant, Run, prepare, race
from bench.gpu.judging import Verdict, judge
from bench.gpu.record import Record, Target, summary
from bench.gpu.sizes import Sizes
from cofi_kernels import force_backend
from cofi_kernels.library import runs_on

Leaves = dict[str, Tensor]
T = TypeVar("T")
STAYS_FP32 = ("z_", "loga", "w_", "b_")  # names of leaves that are fp32 in training whatever it computes in


@dataclass
class Bench:
    sizes: Sizes
    record: Record
    smoke: bool

    @property
    def device(self) -> str:
        return measure.device()

    @cached_property
    def flops_per_s(self) -> float:
        """Of a large matrix product in the benchmark's dtype: the ceiling of arithmetic, measured."""
        n = 128 if self.smoke else 8192
        a, b = (torch.randn(n, n, device=self.device).to(self.sizes.dtype) for _ in range(2))
        times = race([prepare("ceiling", lambda: a @ b)], 7)["ceiling"]
        return 2 * n**3 / min(times)

    @cached_property
    def bytes_per_s(self) -> float:
        return measure.copy_bytes_per_s()

    def floor(self, flops: float, bytes_moved: float) -> float:
        """The larger of the two times at the machine's ceilings, in seconds."""
        return max(flops / self.flops_per_s, bytes_moved / self.bytes_per_s)

    def backend(self, *ops: str) -> str:
        """What these ops run on here, each name once."""
        return ", ".join(dict.fromkeys(runs_on(op, self.device) for op in ops))

    def contest(
        self,
        family: str,
        case: str,
        ours: Run,
        rivals: Mapping[str, Run],
        *,
        floor: float | None = None,
        target: Callable[[float, dict[str, float]], Target | None] = lambda value, rivals: None,
        ops: Sequence[str] = (),
    ) -> float:
        """Time `ours` and its rivals in turns and keep the row. target: from our time and theirs, in us."""
        contestants = self.contestants(ours, rivals)
        times = race(contestants, self.sizes.rounds)
        (value, spread), *others = (summary([t * 1e6 for t in times[c.name]]) for c in contestants)
        theirs = {c.name: median for c, (median, _) in zip(contestants[1:], others, strict=True)}
        self.record.add(
            family,
            case,
            "time of forward and backward",
            "us",
            value,
            target=target(value, theirs),
            rivals=theirs,
            floor=None if floor is None else floor * 1e6,
            spread=spread,
            backend=self.backend(*ops),
            eager_launches=[c.name for c in contestants if not c.graphed],
        )
        return value

    def contestants(self, ours: Run, rivals: Mapping[str, Run], launched: Collection[str] = ()) -> list[Contestant]:
        """All that can be raced; a rival that fails is recorded as such and left out.

        launched: rivals that are timed call by call, as their users call them
        """
        prepared = [prepare("ours", ours)]
        for name, run in rivals.items():
            try:
                prepared.append(prepare(name, run, captured=name not in launched))
            except Exception as error:
                self.record.fail(f"rival {name}", error)
        return prepared

    def attempt(self, name: str, run: Callable[[], T]) -> T | None:
        """What `run` gives. A failure is recorded, and what comes after goes on."""
        try:
            return run()
        except Exception as error:
            self.record.fail(name, error)
            return None

    def check(self, family: str, case: str, run: Callable[..., Iterable[tuple[str, Tensor]]], leaves: Leaves) -> bool:
        """Whether what `run(**leaves)` yields in the benchmark's dtype is as exact as `judge` asks; see `verdict`.

        leaves: fp32 tensors; masks (z_, loga) and masters (w_, b_) stay fp32 in low precision, as in training
        """
        name = _checked(family, case)
        verdicts = self.attempt(name, lambda: self._verdicts(run, leaves))
        return self.verdict(family, case, verdicts) if verdicts is not None else self._not_timed(family, case)

    def verdict(self, family: str, case: str, verdicts: dict[str, Verdict]) -> bool:
        """Record the errors. Where one is too large the row is marked, the failure recorded and the case not timed."""
        wrong = {name: v for name, v in verdicts.items() if v.wrong}
        worst = max(v.error for v in verdicts.values())
        errors = {name: {"error": v.error, "allowed": v.allowed} for name, v in verdicts.items()}
        marks: dict[str, Any] = {"wrong": list(wrong)} if wrong else {}
        metric = "largest relative error against fp64"
        self.record.add(family, f"correctness, {case}", metric, "", worst, errors=errors, **marks)
        if not wrong:
            return True
        self.record.fail(_checked(family, case), AssertionError("; ".join(f"{name}: {v}" for name, v in wrong.items())))
        return self._not_timed(family, case)

    def _not_timed(self, family: str, case: str) -> bool:
        self.record.skip(f"{family}, {case}", "it was not correct")
        return False

    def _verdicts(self, run: Callable[..., Iterable[tuple[str, Tensor]]], leaves: Leaves) -> dict[str, Verdict]:
        dtype = self.sizes.dtype
        got = dict(run(**cast(leaves, dtype)))
        with force_backend("reference"):
            eager = dict(run(**cast(leaves, dtype)))
            rounded = cast(cast(leaves, dtype), torch.float64, everything=True)
            want = {name: value.double() for name, value in run(**rounded)}
        return {name: judge(value, eager[name], want[name], dtype) for name, value in got.items()}


def _checked(family: str, case: str) -> str:
    return f"correctness, {family}, {case}"


def cast(leaves: Leaves, dtype: torch.dtype, *, everything: bool = False) -> Leaves:
    """Copies that ask for gradients."""
    copies = {}
    for name, t in leaves.items():
        stays = not t.is_floating_point() or (name.startswith(STAYS_FP32) and not everything)
        copies[name] = t.detach().to(t.dtype if stays else dtype, copy=True)
        if t.is_floating_point():
            copies[name].requires_grad_()
    return copies


def in_dtype_of(x: Tensor, *weights: Tensor) -> list[Tensor]:
    """fp32 masters, cast as under autocast: what plain operators need beside x of lower precision."""
    return [w.to(x.dtype) for w in weights]


def leaning(y: Tensor, dtype: torch.dtype) -> Tensor:
    """A random gradient of y in `dtype` that leans towards y.

    The gradient of a mask that is one number is sum(dy * y) / z: of a dy that knows nothing of y almost all of it
    cancels, and what is left is as small as the roundings. Every precision is given the same dy, already rounded.
    """
    return (torch.randn_like(y) + y / y.square().mean().sqrt().clamp(min=1e-30)).to(dtype)


def with_gradients(y: Tensor, dy: Tensor, leaves: dict[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """y and the gradient of every leaf, by name; nothing for those that have none."""
    yield "value", y.detach()
    needed = {name: t for name, t in leaves.items() if t.requires_grad}
    grads = torch.autograd.grad(y, list(needed.values()), dy.to(y.dtype), allow_unused=True)
    yield from ((f"d{name}", grad) for name, grad in zip(needed, grads, strict=True) if grad is not None)


def compiled(function: Callable[..., Any], *, smoke: bool) -> Callable[..., Any]:
    """torch.compile, as a rival. In a smoke run without code generation, which would take minutes."""
    return torch.compile(function, backend="aot_eager" if smoke else "inductor", dynamic=False)
