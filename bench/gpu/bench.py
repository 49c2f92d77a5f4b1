"""What every case is handed: sizes, the machine's ceilings, the clock and the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench import measure
from bench.gpu.clock import Contestant, Run, prepare, race
from bench.gpu.record import Record, Target, summary
from bench.gpu.sizes import Sizes
from cofi_kernels import force_backend
from cofi_kernels.library import runs_on
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager, relative_error

Leaves = dict[str, Tensor]


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
        rivals: dict[str, Run],
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

    def contestants(self, ours: Run, rivals: dict[str, Run]) -> list[Contestant]:
        """All that can be raced; a rival that fails is recorded as such and left out."""
        prepared = [prepare("ours", ours)]
        for name, run in rivals.items():
            try:
                prepared.append(prepare(name, run))
            except Exception as error:
                self.record.fail(f"rival {name}", error)
        return prepared

    def check(self, family: str, case: str, run: Callable[..., Iterable[tuple[str, Tensor]]], leaves: Leaves) -> None:
        """`run(**leaves)` in the benchmark's dtype errs at most twice as much as the reference in it, against fp64.

        leaves: fp32 tensors; those whose name starts with z_ or loga stay fp32 in low precision, as in training
        """
        dtype = self.sizes.dtype
        got = dict(run(**cast(leaves, dtype)))
        with force_backend("reference"):
            eager = dict(run(**cast(leaves, dtype)))
            rounded = cast(cast(leaves, dtype), torch.float64, everything=True)
            want = {name: value.double() for name, value in run(**rounded)}
        worst = 0.0
        for name, value in got.items():
            if dtype == torch.float32:
                assert_close_to_fp64(value, want[name], name=name)
            else:
                assert_no_worse_than_eager(value, eager[name], want[name], name=name)
            worst = max(worst, relative_error(value, want[name]))
        self.record.add(family, f"correctness, {case}", "largest relative error against fp64", "", worst)


def cast(leaves: Leaves, dtype: torch.dtype, *, everything: bool = False) -> Leaves:
    """Copies that ask for gradients."""
    copies = {}
    for name, t in leaves.items():
        stays = not t.is_floating_point() or (name.startswith(("z_", "loga")) and not everything)
        copies[name] = t.detach().to(t.dtype if stays else dtype, copy=True)
        if t.is_floating_point():
            copies[name].requires_grad_()
    return copies


def with_gradients(y: Tensor, dy: Tensor, leaves: dict[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """y and the gradient of every leaf, by name; nothing for those that have none."""
    yield "value", y.detach()
    needed = {name: t for name, t in leaves.items() if t.requires_grad}
    grads = torch.autograd.grad(y, list(needed.values()), dy.to(y.dtype), allow_unused=True)
    yield from ((f"d{name}", grad) for name, grad in zip(needed, grads, strict=True) if grad is not None)


def compiled(function: Callable[..., Any], *, smoke: bool) -> Callable[..., Any]:
    """torch.compile, as a rival. In a smoke run without code generation, which would take minutes."""
    return torch.compile(function, backend="aot_eager" if smoke else "inductor", dynamic=False)
