"""What this machine gives an encoder on one batch: a few seconds' worth of small measurements with our own kernels.

    attention: rows + arrival of weights + projections / rate + scores and mix / core rate
    FFN:       rows + arrival of weights + products / rate

arrival: weights / bandwidth, of which products hide the share HIDDEN; the time of the first token's products is within.
rows: a sublayer without a unit, which adds its bias and normalizes; on one token that is its call alone. The rates are
those of products whose weights lie in a near cache, the bandwidth that at which the very encoder's weights arrive when
one token asks for them: it says in which cache, or memory, they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import cast

import torch

import cofi_kernels
from cofi.masks import Structure
from cofi.measure.timing import no_collection, synchronizer, turn
from cofi.models import CompactConfig, CompactModel, PackedBatch, from_lists
from cofi.profile.parts import Call, Deployment

DIMS = 512  # of the FFN that gives the rate: weights of 3 MB at 768 hidden dims
HEADS = 4
# Tokens of the sequences whose difference gives the rate inside heads: the batch's longest within LONG. With 64 of
# 4,096 tokens the difference is 3 % of the time, too little to be told from noise.
SHORT, LONG = 8, (64, 512)
PEAK_ROWS = 1024
# For one sequence of 32 or 128 tokens, 80 and 95 % pruned, on a Zen 3: predictions that hide all of it are 8 to 15 %
# too low, those that hide none up to 9 % too high.
HIDDEN = 0.5
TURNS = 6  # the least of them counts
MORE = 3  # sublayers of an encoder, from which those of one are taken
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Rates:
    """Seconds, operations and bytes a second, for one batch.

    fixed_s: a model without a sublayer (call, embeddings, head); *_call_s: a sublayer on one token; *_rows_s: one
    without a unit on this batch; ffn, projections, core: operations a second on this batch; bandwidth: of the weights;
    peak: operations a second of a large product
    """

    fixed_s: float
    attention_call_s: float
    ffn_call_s: float
    attention_rows_s: float
    ffn_rows_s: float
    ffn: float
    projections: float
    core: float
    bandwidth: float
    peak: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class Clock:
    """Seconds of a call, and of one sublayer within a call."""

    def __init__(self, device: torch.device) -> None:
        self._wait = synchronizer(device)

    def seconds(self, call: Call) -> float:
        call()
        self._wait()
        return min(turn(call, self._wait) for _ in range(TURNS))

    def each(self, deployment: Deployment, single: Structure) -> float:
        """Seconds that the sublayer of `single`, which has one, adds to an encoder: of MORE of them less those of one.

        An encoder without any is no zero to count from: nothing of it is packed, and its call is a slower one.
        """
        times = [self.seconds(deployment.encoder(repeated(single, n))) for n in (1, MORE)]
        return max(times[1] - times[0], 1e-9) / (MORE - 1)

    def base(self, deployment: Deployment, hidden: int, rows_s: float) -> float:
        """Seconds of the call of an encoder, its sublayers left out; rows_s: of an FFN without a unit."""
        return max(self.seconds(deployment.encoder(bias_only(hidden))) - rows_s, 0.0)


def deployment_of(model: CompactModel, batch: PackedBatch) -> Deployment:
    """Encoders that run `batch` as `model` does."""
    precision = model.layout.precision
    if model.device.type == "cuda":
        precision = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    return Deployment(cast(CompactConfig, model.config), batch, model.device, precision)


def measure_rates(model: CompactModel, batch: PackedBatch) -> Rates:
    """The rates of the machine for this model on this batch. Call under inference mode."""
    deployment = deployment_of(model, batch)
    clock = Clock(model.device)
    with no_collection():
        hidden = deployment.config.hidden_size
        one = replace(deployment, batch=_batch(1, 1).to(model.device))
        attention_call, ffn_call = _without_units(clock, one, hidden)
        attention_rows, ffn_rows = _without_units(clock, deployment, hidden)
        fixed = max(clock.seconds(deployment.bare()) - ffn_rows, 0.0)
        ffn = _ffn_rate(clock, deployment, hidden, ffn_rows)
        large = replace(deployment, batch=_batch(1, PEAK_ROWS).to(model.device))
        peak = max(ffn, _ffn_rate(clock, large, hidden, _without_units(clock, large, hidden)[1]))
        projections, core = _attention_rates(clock, deployment, hidden, attention_rows, peak)
        bandwidth = _bandwidth(clock, model, one.batch, attention_call, ffn_call)
    return Rates(fixed, attention_call, ffn_call, attention_rows, ffn_rows, ffn, projections, core, bandwidth, peak)


def weight_bytes(units: int, hidden: int, precision: str) -> int:
    """Bytes of a matrix and its counterpart: units x hidden, there and back."""
    return 2 * units * hidden * BYTES[precision]


def _without_units(clock: Clock, deployment: Deployment, hidden: int) -> tuple[float, float]:
    """Seconds of an attention and of an FFN sublayer that only adds its bias and normalizes."""
    attention = clock.each(deployment, Structure((0,), (0,), hidden, (True,), (False,)))
    return attention, clock.each(deployment, bias_only(hidden))


def _ffn_rate(clock: Clock, deployment: Deployment, hidden: int, rows_s: float) -> float:
    """Operations a second of an FFN on the batch."""
    found = clock.each(deployment, Structure((0,), (DIMS,), hidden, (False,), (True,)))
    return 4 * deployment.batch.n_tokens * hidden * DIMS / max(found - rows_s, 1e-9)


def _attention_rates(
    clock: Clock, deployment: Deployment, hidden: int, rows_s: float, peak: float
) -> tuple[float, float]:
    """Operations a second of the projections, and inside the heads: by sequences of two lengths."""
    n_tokens, width = deployment.batch.n_tokens, HEADS * deployment.config.head_dim
    structure = Structure((HEADS,), (0,), hidden, (True,), (False,))
    per_token: dict[int, float] = {}
    long = min(max(deployment.batch.max_seqlen, LONG[0]), LONG[1])
    for length in (SHORT, long):
        lengths = [length] * max(1, n_tokens // length)
        batch = from_lists([[0] * n for n in lengths]).to(deployment.device)
        found = clock.each(replace(deployment, batch=batch), structure)
        per_token[length] = found / batch.n_tokens
    core_s = max((per_token[long] - per_token[SHORT]) / (4 * width * (long - SHORT)), 1 / peak)
    projections_s = per_token[SHORT] - rows_s / n_tokens - 4 * width * SHORT * core_s
    return 8 * hidden * width / max(projections_s, 1e-13), 1 / core_s


def _bandwidth(
    clock: Clock, model: CompactModel, one: PackedBatch, attention_call_s: float, ffn_call_s: float
) -> float:
    """Bytes a second at which the encoder's own weights arrive: its time for one token, less the calls."""
    layout, hidden = model.layout, int(model.config.hidden_size)
    x = torch.full((1, hidden), 0.01, device=model.device, dtype=model.dtype)
    weights = model.encoder_weights()

    def run() -> object:
        return cofi_kernels.compact_encoder(x, one.cu_seqlens, one.max_seqlen, weights, layout)

    deployment = deployment_of(model, one)
    calls = attention_call_s * sum(layout.mha) + ffn_call_s * sum(layout.ffn)
    seconds = clock.seconds(run) - clock.base(deployment, hidden, ffn_call_s) - calls
    width = 2 * layout.head_dim * sum(layout.heads) + sum(layout.intermediate)
    return max(weight_bytes(width, hidden, deployment.precision), 1) / max(seconds, 1e-9)


def bias_only(hidden: int) -> Structure:
    """One FFN that adds its bias and normalizes."""
    return Structure((0,), (0,), hidden, (False,), (True,))


def repeated(single: Structure, n: int) -> Structure:
    """The one layer of `single`, n times over."""
    return Structure(single.heads * n, single.intermediate * n, single.hidden, single.mha * n, single.ffn * n)


def _batch(n_sequences: int, length: int) -> PackedBatch:
    return from_lists([[0] * length] * n_sequences)
