"""Whole training steps as CUDA graphs: replay against launches, 200 steps against the reference run, and times."""

from __future__ import annotations

from functools import partial

import torch

from bench.gpu import rivals
from bench.gpu.bench import Bench
from bench.gpu.clock import Contestant, prepare, race
from bench.gpu.record import Target, summary
from bench.gpu.training import Training, batch_of, training
from cofi_kernels import force_backend

DENSE_LIMIT_MS, PRUNED_LIMIT_MS, GAIN = 5.5, 1.5, 2.0
TRACK_FACTOR, TRACK_SLACK = 2.0, 0.01  # losses may stray twice as far from fp32 as the reference in bf16, and 1 %
AGREEMENT = 0.02  # of losses in bf16, whose states are rounded in another order
OPS = ("masked_attention", "masked_ffn", "masked_layer_norm", "layer_match")
FAMILY = "step"


def run(bench: Bench) -> None:
    """Parts that do not need one another: one that fails leaves the others."""
    parts = {"replay": _replay_equals_launch, "dense": _times, "as units die": _times_as_units_die, "track": _track}
    for name, part in parts.items():
        bench.attempt(f"{FAMILY}, {name}", partial(part, bench))


def _losses(bench: Bench, run: Training, steps: int, graphs: int) -> torch.Tensor:
    """Losses of `steps` steps on batches of one form, read at the end."""
    shape = run.batch.packed.n_sequences, run.batch.packed.max_seqlen
    take_step = run.graphed(graphs if bench.device == "cuda" else 0)
    batches = [batch_of(bench, *shape, seed=step % 8) for step in range(steps)]
    losses = [take_step(batch, step).total.clone() for step, batch in enumerate(batches)]
    return torch.stack(losses).double().cpu()


def _replay_equals_launch(bench: Bench) -> None:
    runs = [training(bench, 0.4, n_sequences=min(8, bench.sizes.n_sequences)) for _ in range(2)]
    launched, replayed = (_losses(bench, run, 6, graphs) for run, graphs in zip(runs, (0, 1), strict=True))
    weights = [torch.cat([p.detach().flatten() for p in run.student.model.parameters()]) for run in runs]
    difference = max((launched - replayed).abs().max().item(), (weights[0] - weights[1]).abs().max().item())
    _record_difference(bench, "graph replay equals launches, 6 steps", difference)


def _record_difference(bench: Bench, case: str, difference: float) -> None:
    target = Target("graph replay equals eager launch", 0.0)
    bench.record.add(FAMILY, case, "largest difference of losses and weights", "", difference, target=target)


def _track(bench: Bench) -> None:
    """Ours, the reference in the same precision and the reference in fp32, from one seed, with the same dropout."""
    steps, few = bench.sizes.tracked_steps, min(8, bench.sizes.n_sequences)
    ours = _losses(bench, training(bench, n_sequences=few), steps, 1)
    with force_backend("reference"):
        low = _losses(bench, training(bench, n_sequences=few), steps, 0)
        exact = _losses(bench, training(bench, n_sequences=few, precision=torch.float32), steps, 0)
    strayed, allowed = (((run - exact).abs() / exact.abs()).mean().item() for run in (ours, low))
    limit = TRACK_FACTOR * allowed + TRACK_SLACK
    target = Target(f"{steps} steps track the reference run", limit)
    metric = "mean relative difference of the loss from the reference in fp32"
    rival = {"reference, same precision": allowed}
    bench.record.add(FAMILY, f"{steps} steps", metric, "", strayed, target=target, rivals=rival)


def _times(bench: Bench) -> None:
    theirs = {
        "hf eager": rivals.HuggingFace(bench, captured=False),
        "hf eager, graph": rivals.HuggingFace(bench, captured=True),
    }
    contestants = bench.contestants(training(bench).step(), theirs, launched=["hf eager"])
    value, others, spread = _raced(bench, contestants)
    bench.record.add(
        FAMILY,
        "nothing dead, teacher computed",
        "time of a step",
        "ms",
        value,
        target=Target("whole step, nothing dead, teacher computed", DENSE_LIMIT_MS),
        rivals=others,
        floor=_dense_floor(bench) * 1e3,
        spread=spread,
        backend=bench.backend(*OPS),
        eager_launches=[c.name for c in contestants if not c.graphed],
    )


def run_compiled(bench: Bench) -> None:
    """The same step of plain operators under torch.compile, which takes a minute or two to compile."""
    difference = rivals.disagreement(training(bench, dropout=0.0))
    if not difference <= AGREEMENT:
        raise AssertionError(f"losses of ours and of plain operators differ by {difference:.1e}, at most {AGREEMENT}")
    rival = rivals.compiled_reference(bench, training(bench))
    contestants = [prepare("ours", training(bench).step()), prepare("compiled reference", rival)]
    value, others, spread = _raced(bench, contestants)
    reference = others["compiled reference"]
    bench.record.add(
        FAMILY,
        "nothing dead, against torch.compile",
        "our time over the compiled reference's",
        "",
        value / reference,
        target=Target(f"at least {GAIN:.0f}x faster than torch.compile of the reference", 1 / GAIN),
        milliseconds={"ours": value, **others},
        spread=[t / reference for t in spread],
        backend=bench.backend(*OPS),
        eager_launches=[c.name for c in contestants if not c.graphed],
    )


def _raced(bench: Bench, contestants: list[Contestant]) -> tuple[float, dict[str, float], list[float]]:
    """Our median, the others' and our quartiles, in ms."""
    times = {name: summary([t * 1e3 for t in ts]) for name, ts in race(contestants, bench.sizes.rounds).items()}
    value, spread = times.pop("ours")
    return value, {name: median for name, (median, _) in times.items()}, spread


def _dense_floor(bench: Bench) -> float:
    """Student forward and backward, teacher forward, and AdamW's 28 bytes a weight."""
    s = bench.sizes
    rows = s.n_heads * s.head_dim
    weights = s.n_layers * (4 * s.hidden * rows + 2 * s.hidden * s.intermediate)
    forward = s.tokens * (2.0 * weights + 4.0 * s.n_layers * s.seqlen * rows)
    return 4 * forward / bench.flops_per_s + 28.0 * weights / bench.bytes_per_s


def _times_as_units_die(bench: Bench) -> None:
    """Steps on one batch with the teacher's outputs at hand: what is left of a step is the student's."""
    s = bench.sizes
    for live in s.live:
        contestants = [prepare("ours", training(bench, live, cached=True).step())]
        value, _, spread = _raced(bench, contestants)
        bench.record.add(
            FAMILY,
            f"{live:.0%} live, teacher cached, {s.n_sequences} x {s.seqlen} tokens",
            "time of a step",
            "ms",
            value,
            target=Target("whole step at 95 %, teacher cached", PRUNED_LIMIT_MS) if live == min(s.live) else None,
            spread=spread,
            backend=bench.backend(*OPS),
            eager_launches=[c.name for c in contestants if not c.graphed],
        )
