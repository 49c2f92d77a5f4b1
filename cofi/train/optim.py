"""Optimizers of a phase: one for the weights, one for the gates, one that ascends on the multipliers (method of the
paper: three separate AdamW, only the first with a schedule)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from cofi.masks import Gates, Lagrangian, ascent_optimizer
from cofi_kernels import adamw_


def _is_decayed(name: str) -> bool:
    """Biases and norms are never decayed."""
    last = name.rsplit(".", 1)[-1]
    return not (last == "bias" or last.startswith("b_") or ".norm." in name)


def capturable(parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """Options of an optimizer whose step can be captured in a CUDA graph; none where the parameters are on a CPU."""
    return {"fused": True, "capturable": True} if any(p.is_cuda for p in parameters) else {}


class ClippingAdamW(AdamW):
    """torch's AdamW, with its state, that clips all gradients by their common norm on the way.

    A parameter without a gradient has one of zeros: its momentum and its decay go on. So a layer that is masked out
    need not fill memory with zeros, and a run does not depend on whether it does.
    """

    max_grad_norm: float = 0.0  # 0 does not clip

    def step(self, closure: Any = None) -> Any:
        """One step, in one pass over memory on a CPU. Takes no closure. Leaves the gradients unclipped there."""
        groups = [(p, group) for group in self.param_groups for p in group["params"]]
        if any(p.device.type != "cpu" for p, _ in groups):
            return self._step_by_torch([p for p, _ in groups])
        states = [self._state_of(p) for p, _ in groups]
        adamw_(
            [p for p, _ in groups],
            [p.grad for p, _ in groups],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            steps=[float(state["step"].add_(1)) for state in states],
            lrs=[group["lr"] for _, group in groups],
            weight_decays=[group["weight_decay"] for _, group in groups],
            betas=self.defaults["betas"],
            eps=self.defaults["eps"],
            max_norm=self.max_grad_norm,
        )
        return None

    def _state_of(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    def _step_by_torch(self, params: list[torch.Tensor]) -> Any:
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        return super().step()


def weight_optimizer(modules: Iterable[nn.Module], lr: float, weight_decay: float) -> ClippingAdamW:
    """AdamW over the trainable parameters of `modules`.

    On a GPU the learning rate is a tensor there, so that a captured step takes what the schedule says.
    """
    named = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if _is_decayed(name)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not _is_decayed(name)], "weight_decay": 0.0},
    ]
    options = capturable(p for _, p in named)
    rate = torch.tensor(lr, device=named[0][1].device) if options else lr
    # fused, for a GPU: the default makes a kernel a tensor
    return ClippingAdamW([group for group in groups if group["params"]], lr=rate, **{"fused": True, **options})


def linear_schedule(optimizer: AdamW, steps: int, warmup_share: float, decay: bool) -> LambdaLR:
    """Rise linearly over the first `warmup_share` of `steps`, then fall linearly to 0 (or stay)."""
    warmup = int(steps * warmup_share)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (steps - step) / max(1, steps - warmup)) if decay else 1.0

    return LambdaLR(optimizer, factor)


class PhaseOptimizers:
    """All that is stepped in a phase, as one."""

    def __init__(
        self,
        weights: ClippingAdamW,
        schedule: LambdaLR,
        max_grad_norm: float,
        gates: Gates | None = None,
        lagrangian: Lagrangian | None = None,
        reg_lr: float = 0.0,
    ) -> None:
        self.weights = weights
        self.schedule = schedule
        weights.max_grad_norm = max_grad_norm
        self.gates = gates
        self.all: dict[str, torch.optim.Optimizer] = {"weights": weights}
        if gates is not None and gates.loga.requires_grad:
            options = capturable(gates.parameters())
            self.all["gates"] = AdamW(gates.parameters(), lr=reg_lr, weight_decay=0.0, **options)
        if lagrangian is not None:
            options = capturable(lagrangian.parameters())
            self.all["multipliers"] = ascent_optimizer(lagrangian, reg_lr, **options)
        self._base_rate = float(weights.param_groups[0]["initial_lr"])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is stepped, in a fixed order."""
        return [p for optimizer in self.all.values() for group in optimizer.param_groups for p in group["params"]]

    @property
    def learning_rate(self) -> float:
        """Of the next step, from the schedule: on a GPU the optimizer's own would have to be waited for."""
        return float(self._base_rate * self.schedule.lr_lambdas[0](self.schedule.last_epoch))

    def step(self) -> None:
        """Clip, step all, clamp the gates, clear the gradients, move the schedule on."""
        self.update()
        self.schedule.step()

    def update(self) -> None:
        """The part of `step` that is work on the device, where it has no need of the host: it may be captured."""
        for optimizer in self.all.values():
            optimizer.step()
        if self.gates is not None:
            self.gates.clamp_()
        self.zero_grad()

    def zero_grad(self) -> None:
        for optimizer in self.all.values():
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        states = {name: optimizer.state_dict() for name, optimizer in self.all.items()}
        return {"optimizers": states, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, optimizer in self.all.items():
            own = [_placement(group) for group in optimizer.param_groups]
            optimizer.load_state_dict(_moved(state["optimizers"][name], own))
            for group, options in zip(optimizer.param_groups, own, strict=True):
                _place(group, options)
        base_rates = self.schedule.base_lrs  # where they lie, too, is this device's own
        self.schedule.load_state_dict(state["schedule"])
        self.schedule.base_lrs = base_rates


def _placement(group: dict[str, Any]) -> dict[str, Any]:
    """What of a parameter group says where it is stepped; a checkpoint may come from another device."""
    return {name: group[name] for name in ("lr", "capturable", "fused", "foreach")}


def _moved(state: dict[str, Any], own: list[dict[str, Any]]) -> dict[str, Any]:
    """`state` with this device's way of stepping, by which torch chooses where the numbers of steps are kept."""
    groups = [
        {**group, **{name: value for name, value in options.items() if name != "lr"}}
        for group, options in zip(state["param_groups"], own, strict=True)
    ]
    return {**state, "param_groups": groups}


def _place(group: dict[str, Any], options: dict[str, Any]) -> None:
    rate, own = float(group["lr"]), options["lr"]
    group.update(options, lr=own.fill_(rate) if isinstance(own, torch.Tensor) else rate)
