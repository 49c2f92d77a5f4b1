"""Training steps as CUDA graphs: a step is some 1,300 kernels, whose launches cost more than their work once much is
pruned. One graph for each form of batch; the masks, the counters and the target sparsity are read on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cofi.data.batches import TaskBatch
from cofi.models.heads import IGNORED, Head
from cofi.models.packed import PackedBatch, pinned
from cofi.train.objective import Objective, StepInputs, StepLoss, Student
from cofi.train.optim import PhaseOptimizers
from cofi.train.randomness import step_random
from cofi.train.teacher import Target

MAX_GRAPHS = 64  # forms of batch; they share one memory, as only one runs at a time
HOST = torch.device("cpu")
LENGTH_STEP = 32  # the longest sequence counts as a multiple of this, the tokens as a multiple of that

Form = tuple[int, int, int]  # tokens, sequences, longest sequence
Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
T = TypeVar("T")


class GraphCapture:
    """Records what a function launches, without running it; the result launches it all. One memory for all graphs."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=torch.cuda.current_stream()):
            run()
        self._pool = graph.pool()
        return graph.replay


def with_rounded_length(batch: TaskBatch, longest: int) -> TaskBatch:
    """`batch` with a max_seqlen that recurs; in steps of 4 a draw of dropout's generator covers a row's columns alone.

    Otherwise attention makes four times the draws. longest: length that no sequence may have more of
    """
    rounded = min(-(-batch.packed.max_seqlen // LENGTH_STEP) * LENGTH_STEP, longest)
    return replace(batch, packed=replace(batch.packed, max_seqlen=rounded))


def padded(batch: TaskBatch, longest: int) -> TaskBatch:
    """`batch` with one more sequence of padding, which brings it to a size that recurs.

    longest: length that no sequence may have more of. Costs half of a longest sequence on average: 32 of 1,248 tokens
    for the sentences of MNLI.
    """
    packed = with_rounded_length(batch, longest).packed
    n_padding = -packed.n_tokens % packed.max_seqlen
    flat = {
        name: F.pad(getattr(packed, name), (0, n_padding)) for name in ("input_ids", "token_type_ids", "position_ids")
    }
    bounds = F.pad(packed.cu_seqlens, (0, 1), value=packed.n_tokens + n_padding)
    if batch.of_tokens:
        labels = {name: F.pad(values, (0, n_padding), value=IGNORED) for name, values in batch.labels.items()}
        batch = replace(batch, labels=labels)
    return replace(batch, packed=PackedBatch(**flat, cu_seqlens=bounds, max_seqlen=packed.max_seqlen, is_padded=True))


def padded_target(target: Target, n_tokens: int, head: Head) -> Target:
    """`target`, of a teacher with this head, with zeros for the padding where it was kept without."""

    def longer(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0) * (x.dim() - 1) + (0, n_tokens - x.shape[0]))

    states = {layer: longer(state) for layer, state in target.hidden_states.items()}
    names = head.outputs if head.of_tokens else ()
    return replace(target, hidden_states=states, **{name: longer(getattr(target, name)) for name in names})


def copied(value: T) -> T:
    """`value` with copies of its tensors, in dataclasses, mappings and sequences."""
    return _mapped(lambda t: t.clone(), value)


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(change, item) for name, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{f.name: _mapped(change, getattr(value, f.name)) for f in fields(value)})
    return value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(t: Tensor) -> Tensor:
        found.append(t)
        return t

    _mapped(collect, value)
    return found


def fill(own: Any, new: Any) -> None:
    """Copy the tensors of `new` into those of `own`, which has the same form; from the host without waiting."""
    for target, source in zip(_tensors(own), _tensors(new), strict=True):
        target.copy_(pinned(source, target.device), non_blocking=True)


@dataclass
class _Captured:
    """A recorded step: the memory it reads, what it writes, how it is run."""

    batch: TaskBatch
    inputs: StepInputs
    target: Target | None
    loss: StepLoss
    replay: Replay


class GraphedSteps:
    """Steps of one phase, on batches padded to sizes that recur.

    A form of batch runs eagerly the first time, which compiles its kernels, is recorded the second time and replayed
    from then on; forms beyond `limit` stay eager, and `say` is told so once.

    capture: how a step is recorded; another one than `GraphCapture` is for tests without a GPU
    """

    def __init__(
        self,
        student: Student,
        objective: Objective,
        optimizers: PhaseOptimizers,
        say: Callable[[str], None],
        *,
        limit: int = MAX_GRAPHS,
        capture: Capture | None = None,
    ) -> None:
        self.student, self.objective, self.optimizers, self.say = student, objective, optimizers, say
        self.limit, self.capture = limit, capture or GraphCapture()
        self._longest = student.model.config.longest
        self._device = student.model.device
        self._seen: set[Form] = set()
        self._captured: dict[Form, _Captured] = {}
        self._eager_reason = self._why_eager()
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def __call__(self, batch: TaskBatch, step: int) -> StepLoss:
        """Run a step: loss, backward, update. The loss's tensors hold until the next call.

        batch: best on the host, from where it goes straight into the memory of a recorded step
        """
        if self._stream is None:
            return self._step(batch, step)
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):  # one stream for eager and recorded steps: autograd remembers it
            loss = self._step(batch, step)
        current.wait_stream(self._stream)
        return loss

    def _step(self, batch: TaskBatch, step: int) -> StepLoss:
        batch = padded(batch, self._longest)
        form = (batch.packed.n_tokens, batch.packed.n_sequences, batch.packed.max_seqlen)
        captured = self._captured.get(form)
        if captured is None and self._may_capture(form):
            captured = self._captured[form] = self._record(batch, step)
        if captured is None:
            self._seen.add(form)
            loss = self._launch(batch, step)
        else:
            self._fill(captured, batch, step)
            captured.replay()
            loss = StepLoss(captured.loss.total, dict(captured.loss.parts))
        self.optimizers.schedule.step()
        loss.parts.update(self.student.aim(step))
        return loss

    def _launch(self, batch: TaskBatch, step: int) -> StepLoss:
        rng = step_random(self.objective.config.seed, f"{self.objective.phase}/matching", step)
        batch = batch.to(self._device)
        inputs = self.objective.inputs(self.student, step, self._device)
        loss = self.objective.loss(self.student, batch, inputs, self._target(batch), rng)
        loss.total.backward()
        self.optimizers.update()
        return StepLoss(loss.total.detach(), loss.parts)

    def _may_capture(self, form: Form) -> bool:
        if form not in self._seen:
            return False
        if self._eager_reason is None and len(self._captured) >= self.limit:
            self._eager_reason = f"there are already {self.limit} graphs"
        elif self._eager_reason is None:
            return True
        if self._eager_reason:
            self.say(f"Steps with {form[0]} tokens and others run without a CUDA graph: {self._eager_reason}.")
            self._eager_reason = ""
        return False

    def _why_eager(self) -> str | None:
        distiller = self.student.distiller
        if distiller is not None and distiller.strategy.candidates != distiller.strategy.spaced:
            return "the matching draws teacher layers on the host"
        return None

    def _target(self, batch: TaskBatch) -> Target | None:
        teacher = self.objective.teacher
        if teacher is None:
            return None
        return padded_target(teacher(batch), batch.packed.n_tokens, teacher.model.head)

    def _fill(self, captured: _Captured, batch: TaskBatch, step: int) -> None:
        fill(captured.batch, batch)
        fill(captured.inputs, self.objective.inputs(self.student, step, HOST))
        if captured.target is not None:
            fill(captured.target, self._target(batch))

    def _record(self, batch: TaskBatch, step: int) -> _Captured:
        """Record a step on memory of its own. Gradients are made inside; the optimizers must have been stepped once."""
        batch = copied(batch.to(self._device))
        inputs = copied(self.objective.inputs(self.student, step, self._device))
        teacher = self.objective.teacher
        kept = copied(self._target(batch)) if teacher is not None and teacher.needs_host else None
        loss = StepLoss(torch.empty(()))

        def run() -> None:
            target = kept if kept is not None else self._target(batch)
            computed = self.objective.loss(self.student, batch, inputs, target, step_random(0, "unused", 0))
            computed.total.backward()
            self.optimizers.update()
            loss.total = computed.total.detach()
            loss.parts = computed.parts

        return _Captured(batch, inputs, kept, loss, self.capture(run))
