"""Why a pruned model takes the time it does: every sublayer predicted from the machine's rates, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table

import cofi_kernels
from cofi.bench.rates import HIDDEN, Clock, Rates, deployment_of, measure_rates, weight_bytes
from cofi.measure.timing import no_collection
from cofi.models import CompactModel, PackedBatch
from cofi.profile.parts import Call, Deployment
from cofi.profile.plan import PANEL
from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder.layout import LAYER_WEIGHTS, N_ATTENTION_WEIGHTS

ARITHMETIC, MEMORY, CALL = "arithmetic", "memory", "call"


@dataclass(frozen=True)
class Sublayer:
    """One sublayer on one batch.

    units: heads or intermediate dims; flop, weight_bytes: its matrix products; predicted_ms: by the rates; floor_ms:
    the products at the machine's peak or the weights at their bandwidth, whichever is more; bound: what takes most of
    the predicted time
    """

    layer: int
    kind: str
    units: int
    flop: float
    weight_bytes: int
    predicted_ms: float
    measured_ms: float
    floor_ms: float
    bound: str


@dataclass(frozen=True)
class Explanation:
    """One batch shape: its sublayers, what is left (call, embeddings, head), and the total against the clock."""

    case: str
    rates: Rates
    sublayers: list[Sublayer]
    measured_ms: float

    @property
    def fixed_ms(self) -> float:
        return 1e3 * self.rates.fixed_s

    @property
    def predicted_ms(self) -> float:
        return self.fixed_ms + sum(sublayer.predicted_ms for sublayer in self.sublayers)

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "rates": self.rates.to_dict(),
            "sublayers": [asdict(sublayer) for sublayer in self.sublayers],
            "fixed_ms": self.fixed_ms,
            "predicted_ms": self.predicted_ms,
            "measured_ms": self.measured_ms,
        }


def explain(model: CompactModel, batch: PackedBatch, case: str) -> Explanation:
    """Predict and measure every sublayer of `model` on `batch`, and the whole. Call under inference mode."""
    layout = model.layout
    rates, deployment = measure_rates(model, batch), deployment_of(model, batch)
    clock = Clock(model.device)
    x = torch.full((batch.n_tokens, model.config.hidden_size), 0.01, device=model.device, dtype=model.dtype)
    found: list[Sublayer] = []
    with no_collection():
        base_s = clock.base(deployment, x.shape[1], rates.ffn_rows_s)
        whole_s = clock.seconds(lambda: model(batch=batch))
        for layer in range(layout.n_layers):
            for kind, kept in (("attention", layout.mha[layer]), ("ffn", layout.ffn[layer])):
                if kept:
                    seconds = clock.seconds(_alone(model, x, batch, layer, kind)) - base_s
                    found.append(_sublayer(deployment, model.layout, rates, layer, kind, max(seconds, 0.0)))
        whole_s = min(whole_s, clock.seconds(lambda: model(batch=batch)))  # before and after: a burst may last
    return Explanation(case, rates, found, 1e3 * whole_s)


def _alone(model: CompactModel, x: torch.Tensor, batch: PackedBatch, layer: int, kind: str) -> Call:
    """One sublayer with its own weights as an encoder by itself."""
    layout, n = model.layout, len(LAYER_WEIGHTS)
    weights = model.encoder_weights()[n * layer : n * (layer + 1)]
    empty = [weights[0].flatten()[:0]]
    if kind == "attention":
        counts = (layout.heads[layer], 0, True, False)
        weights = weights[:N_ATTENTION_WEIGHTS] + empty * (n - N_ATTENTION_WEIGHTS)
    else:
        counts = (0, layout.intermediate[layer], False, True)
        weights = empty * N_ATTENTION_WEIGHTS + weights[N_ATTENTION_WEIGHTS:]
    heads, dims, mha, ffn = counts
    settings = (layout.head_dim, layout.eps, layout.activation, layout.precision)
    single = EncoderLayout((heads,), (dims,), (mha,), (ffn,), *settings)
    return lambda: cofi_kernels.compact_encoder(x, batch.cu_seqlens, batch.max_seqlen, weights, single)


def _sublayer(
    deployment: Deployment, layout: EncoderLayout, rates: Rates, layer: int, kind: str, measured_s: float
) -> Sublayer:
    batch, hidden = deployment.batch, int(deployment.config.hidden_size)
    if kind == "attention":
        units = layout.heads[layer]
        width = units * layout.head_dim
        matrices, inside = 2 * width, 4.0 * width * _squares(batch)
        rate, rows_s, call_s = rates.projections, rates.attention_rows_s, rates.attention_call_s
    else:
        units = matrices = layout.intermediate[layer]
        inside, rate, rows_s, call_s = 0.0, rates.ffn, rates.ffn_rows_s, rates.ffn_call_s
    work = 4.0 * batch.n_tokens * matrices
    flop, size = work * hidden + inside, weight_bytes(matrices, hidden, deployment.precision)
    panels = (hidden + _panels(hidden)) / 2  # half of the products have hidden dims as columns, half as rows
    rest = 1 - 1 / batch.n_tokens  # of the tokens: the first one's products are done when the weights have arrived
    products_s = rest * work * panels / rate * (_panels(matrices) / max(matrices, 1))
    arrival_s = (1 - HIDDEN * rest) * size / rates.bandwidth
    parts = {
        ARITHMETIC: products_s + inside / rates.core,
        MEMORY: arrival_s + max(rows_s - call_s, 0.0),
        CALL: call_s,
    }
    predicted_s = max(rows_s, call_s) + products_s + arrival_s + inside / rates.core
    floor_s = max(flop / rates.peak, size / rates.bandwidth)
    bound = max(parts, key=lambda name: parts[name])
    return Sublayer(layer, kind, units, flop, size, 1e3 * predicted_s, 1e3 * measured_s, 1e3 * floor_s, bound)


def _squares(batch: PackedBatch) -> int:
    """Sum of the squared lengths: scores of one head."""
    return int(batch.cu_seqlens.diff().long().square().sum())


def _panels(columns: int) -> int:
    """As many as kernels compute: the work of 20 dims is that of 32."""
    return PANEL * -(-columns // PANEL)


def sublayer_table(explanation: Explanation) -> Table:
    """A line a sublayer: work, prediction, clock, floor, and what bounds it."""
    rates = explanation.rates
    caption = (
        f"On this batch: products {rates.ffn / 1e9:,.0f} (FFN) and {rates.projections / 1e9:,.0f} (attention) GFLOP/s "
        f"of {rates.peak / 1e9:,.0f} on a large one, {rates.core / 1e9:,.0f} inside heads; weights arrive at "
        f"{rates.bandwidth / 1e9:,.1f} GB/s; a sublayer costs {1e6 * rates.ffn_call_s:.1f} (FFN) and "
        f"{1e6 * rates.attention_call_s:.1f} (attention) us whatever its size; call, embeddings and head take "
        f"{explanation.fixed_ms:.4g} ms. ms alone: the sublayer as an encoder by itself. Floor: products at that peak, "
        "or weights at that rate."
    )
    table = Table(
        title=f"{explanation.case}: sublayers", caption=escape(caption), caption_justify="left", box=box.SIMPLE_HEAD
    )
    table.collapse_padding, table.pad_edge = True, False
    for header in ("layer", "live", "MFLOP", "KB of\nweights", "ms\npredicted", "ms\nalone", "ms\nfloor"):
        table.add_column(header, justify="right")
    table.add_column("bound by")
    for s in explanation.sublayers:
        numbers = (f"{s.flop / 1e6:,.1f}", f"{s.weight_bytes / 1e3:,.0f}")
        times = (f"{ms:.4g}" for ms in (s.predicted_ms, s.measured_ms, s.floor_ms))
        live = f"{s.units} {'heads' if s.kind == 'attention' else 'dims'}"
        table.add_row(str(s.layer), live, *numbers, *times, s.bound)
    return table


def total_table(explanations: Sequence[Explanation]) -> Table:
    """A line a batch shape: the sum of the predictions against the clock, and where the time goes."""
    table = Table(title="total by the sums of the sublayers", box=box.SIMPLE_HEAD)
    table.collapse_padding, table.pad_edge = True, False
    table.add_column("batch x\ntokens")
    for header in ("ms\npredicted", "ms\nmeasured", "off by", "ms\nfloor", "heads", "FFN", "rest", "mostly\nbound by"):
        table.add_column(header, justify="right")
    for e in explanations:
        shares = {kind: sum(s.predicted_ms for s in e.sublayers if s.kind == kind) for kind in ("attention", "ffn")}
        parts = [*shares.values(), e.fixed_ms]
        table.add_row(
            e.case,
            f"{e.predicted_ms:.4g}",
            f"{e.measured_ms:.4g}",
            f"{100 * e.error:+.1f} %",
            f"{sum(s.floor_ms for s in e.sublayers):.4g}",
            *(f"{100 * part / e.predicted_ms:.0f} %" for part in parts),
            _mostly(e),
        )
    return table


def _mostly(explanation: Explanation) -> str:
    """The bound of the sublayers that take most of the time together."""
    by_bound: dict[str, float] = {CALL: explanation.fixed_ms}
    for s in explanation.sublayers:
        by_bound[s.bound] = by_bound.get(s.bound, 0.0) + s.predicted_ms
    return max(by_bound, key=lambda name: by_bound[name])
