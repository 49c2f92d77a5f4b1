"""Layer distillation: the student's hidden states, through one learned transform, against the teacher's.

Shape letters: E hidden, L layers, T packed tokens; suffixes _t teacher, _s student.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import cofi_kernels
from cofi.distill.matching import STRATEGIES, UNMATCHED


def matched_loss(mse: Tensor, alignment: Tensor) -> Tensor:
    """Sum of mse[t, alignment[t]] over the matched teacher layers, 0-dim; 0 where none is.

    mse: (picked teacher layers, L_s); alignment: (picked teacher layers,) int64, UNMATCHED for none
    """
    selected = mse.gather(1, alignment.clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(alignment != UNMATCHED, selected, 0.0).sum()


def repeated_layers(live: Tensor) -> Tensor:
    """For each layer the first one with the state that it repeats, int64 (L,), made on the device of `live` (L,) bool.

    The state after a dead layer is the one before it; the first layer stands for the embeddings while it is dead.
    """
    layers = torch.arange(live.shape[0], device=live.device)
    return torch.where(live, layers, 0).cummax(0).values


def _errors(
    targets: Sequence[Tensor],
    states: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Sequence[int] | Tensor | None,
    n_tokens: Tensor | None,
) -> Tensor:
    """`layer_match` of all pairs.

    Where the host knows which states are repeated, they go in once, so that no gradient is made for their copies.
    """
    if source is None or isinstance(source, Tensor):
        return cofi_kernels.layer_match(targets, states, weight, bias, source=source, n_tokens=n_tokens)
    distinct = sorted(set(source))
    columns = cofi_kernels.layer_match(targets, [states[j] for j in distinct], weight, bias, n_tokens=n_tokens)
    return columns[:, torch.tensor([distinct.index(j) for j in source], device=columns.device)]


class LayerDistillation(nn.Module):
    """Loss between the hidden states of matched layers: a sum over the matched pairs of mean squared errors.

    d_teacher, d_student:               hidden sizes
    n_teacher_layers, n_student_layers: depths, which may differ
    strategy:                           name in STRATEGIES
    count:                              teacher layers to match at each step, fewer where the teacher has fewer

    `transform` maps student states to the teacher's size, shared by all layers, the identity at the start.
    Raises ValueError for an unknown strategy.
    """

    def __init__(
        self,
        d_teacher: int,
        d_student: int,
        n_teacher_layers: int,
        n_student_layers: int,
        strategy: str = "nearest_in_order",
        count: int = 4,
    ) -> None:
        super().__init__()
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        self.strategy = STRATEGIES[strategy](n_teacher_layers, n_student_layers, count)
        self.transform = nn.utils.skip_init(nn.Linear, d_student, d_teacher)  # draws nothing from the global generator
        nn.init.eye_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)

    def forward(
        self,
        teacher_states: Sequence[Tensor] | Mapping[int, Tensor],
        student_states: Sequence[Tensor],
        live: Tensor,
        rng: random.Random,
        source: Sequence[int] | Tensor | None = None,
        n_tokens: Tensor | None = None,
        share: float = 1.0,
        total: Callable[[Tensor], Tensor] = lambda part: part,
    ) -> tuple[Tensor, Tensor]:
        """The loss (0-dim) and the alignment (picked teacher layers,) int64, -1 where no layer was left to match.

        teacher_states: (T, E_t) after each layer, without the embeddings; a mapping may hold only what can be picked
        student_states: L_s tensors (T, E_s) after each layer, without the embeddings
        live:           (L_s,) bool on the states' device, as `Masks.live_layers` gives it
        rng:            drawn from by the random strategies; the same state gives the same step
        source:         source[j] = first layer with the state that layer j repeats, which is then transformed once:
                        `repeated_layers(live)` where dead layers leave their state as it is; by default none repeats
        n_tokens:       0-dim int, on the device: tokens that count, the first ones; by default all
        share:          factor of all errors: the part of a step's tokens that are here, where processes share them
        total:          the errors of all these processes from those of one: layers are matched by all the tokens

        The gradient reaches the matched student states and the transform, never the teacher.
        Raises ValueError where the number of states is not the number of layers.
        """
        self._check(teacher_states, student_states, live)
        picked = self.strategy.pick_teacher_layers(rng)
        dtype = student_states[0].dtype  # of the matrix product; errors are summed in fp32 at least
        targets = [teacher_states[layer].detach().to(dtype) for layer in picked]
        weight, bias = self.transform.weight.to(dtype), self.transform.bias.to(dtype)
        mse = share * _errors(targets, student_states, weight, bias, source, n_tokens)
        alignment = self.strategy.align(total(mse.detach()), live)
        return matched_loss(mse, alignment), alignment

    def _check(self, teacher: Sequence[Tensor] | Mapping[int, Tensor], student: Sequence[Tensor], live: Tensor) -> None:
        expected = self.strategy.n_teacher_layers
        if not isinstance(teacher, Mapping) and len(teacher) != expected:
            raise ValueError(f"teacher_states must hold {expected} layers, got {len(teacher)}")
        expected = self.strategy.n_student_layers
        if len(student) != expected:
            raise ValueError(f"student_states must hold {expected} layers, got {len(student)}")
        if live.shape != (expected,) or live.dtype != torch.bool:
            raise ValueError(f"live must be bool of shape ({expected},), got {live.dtype} of {tuple(live.shape)}")
