"""Whole training steps as CUDA graphs: replay against launches, 200 steps against the reference run, times, and what a
prune of MNLI would take."""

from __future__ import annotations

import torch

from bench.gpu import rivals
from bench.gpu.bench import Bench
from bench.gpu.clock import Contestant, prepare, race
from bench.gpu.record import Target, summary
from bench.gpu.training import Training, batch_of, training
from cofi_kernels import force_backend

DENSE_LIMIT_MS, PRUNED_LIMIT_MS, GAIN, PRUNE_LIMIT_MINUTES = 5.5, 1.5, 2.0, 15.0
EPOCHS, RAMP_EPOCHS, BATCH, SPARSITY = 20, 2, 32, 0.95
TRACK_FACTOR, TRACK_SLACK = 2.0, 0.01  # losses may stray twice as far from fp32 as the reference in bf16, and 1 %
AGREEMENT = 0.02  # of losses in bf16, whose states are rounded in another order
OPS = ("masked_attention", "masked_ffn", "masked_layer_norm", "layer_match")
FAMILY = "step"


def run(bench: Bench) -> None:
    _replay_equals_launch(bench)
    _times(bench)
    _prune(bench)
    _track(bench)


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
    contestants = bench.contestants(training(bench).step(), {"hf eager": rivals.hf_eager(bench)})
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


def _prune(bench: Bench) -> None:
    """Steps with a cached teacher as units die, and the time of a whole prune made of them."""
    s = bench.sizes
    by_length: dict[int, dict[float, float]] = {s.seqlen: {}, s.mnli_tokens: {}}
    for live in s.live:
        runs = {length: training(bench, live, cached=True, seqlen=length) for length in by_length}
        contestants = [prepare(str(length), run.step()) for length, run in runs.items()]
        for contestant, (name, times) in zip(contestants, race(contestants, s.rounds).items(), strict=True):
            value, spread = summary([t * 1e3 for t in times])
            by_length[int(name)][live] = value
            pruned = live == min(s.live) and int(name) == s.seqlen
            bench.record.add(
                FAMILY,
                f"{live:.0%} live, teacher cached, {s.n_sequences} x {name} tokens",
                "time of a step",
                "ms",
                value,
                target=Target("whole step at 95 %, teacher cached", PRUNED_LIMIT_MS) if pruned else None,
                spread=spread,
                backend=bench.backend(*OPS),
                graphed=contestant.graphed,
            )
    minutes = _prune_seconds(by_length[s.mnli_tokens], s.mnli_rows) / 60
    case = f"{EPOCHS} epochs of {s.mnli_rows} sentences of {s.mnli_tokens} tokens, extrapolated"
    target = Target("a full 20-epoch MNLI-sized prune", PRUNE_LIMIT_MINUTES)
    bench.record.add(FAMILY, case, "time of all steps", "min", minutes, target=target)


def _prune_seconds(step_ms: dict[float, float], rows: int) -> float:
    """Sum over the steps of the time at their target sparsity, between the measured ones in a straight line."""
    steps = rows / BATCH
    points = sorted(step_ms.items())

    def at(live: float) -> float:
        pairs = zip(points, points[1:], strict=False)
        low, high = next((pair for pair in pairs if live <= pair[1][0]), (points[-2], points[-1]))
        share = (min(max(live, low[0]), high[0]) - low[0]) / (high[0] - low[0])
        return low[1] + share * (high[1] - low[1])

    ramp = [at(1.0 - SPARSITY * (k + 0.5) / 100) for k in range(100)]
    return 1e-3 * steps * (RAMP_EPOCHS * sum(ramp) / 100 + (EPOCHS - RAMP_EPOCHS) * at(1.0 - SPARSITY))
