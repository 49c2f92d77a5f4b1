"""`python -m cofi.bench` explained: rates that give back what a made-up machine has, sums, bounds and tables."""

from __future__ import annotations

import functools
import gc
import json

import pytest
import torch
from rich.console import Console

from cofi.bench import explain as explaining
from cofi.bench import rates as measuring
from cofi.bench.explain import ARITHMETIC, CALL, MEMORY, Explanation, Sublayer, explain, sublayer_table, total_table
from cofi.bench.rates import HIDDEN, Rates, measure_rates, weight_bytes
from cofi.measure import timing
from cofi.models import from_lists
from tests.measure.encoders import make_compact, make_dense

GIGA = 1e9


class MadeUpMachine:
    """Seconds of a call by what it computes, without running it: rates that `measure_rates` must find again."""

    ffn, projections, core, bandwidth = 50 * GIGA, 40 * GIGA, 20 * GIGA, 5 * GIGA
    call_s, row_s, empty_s, fixed_s = 2e-6, 1e-8, 3e-6, 7e-5

    def __init__(self, device: torch.device) -> None:
        pass

    def seconds(self, call) -> float:
        if not call.args:  # a whole model, or the encoder with its own weights
            return self.fixed_s if hasattr(call, "keywords") else self.empty_s
        x, cu_seqlens, _, _, layout = call.args
        return self.empty_s + self.encoder_s(x, cu_seqlens, layout)

    def encoder_s(self, x, cu_seqlens, layout) -> float:
        n, hidden = x.shape
        squares = int(cu_seqlens.diff().long().square().sum())
        width = sum(layout.heads) * layout.head_dim
        sublayers = sum(layout.mha) + sum(layout.ffn)
        products = 8 * n * hidden * width / self.projections + 4 * n * hidden * sum(layout.intermediate) / self.ffn
        return products + 4 * width * squares / self.core + sublayers * (self.call_s + n * self.row_s)


def test_rates_of_a_made_up_machine_are_found_again(monkeypatch):
    monkeypatch.setattr(
        measuring, "Clock", type("Clock", (MadeUpMachine,), {"each": measuring.Clock.each, "base": None})
    )
    monkeypatch.setattr(measuring, "_bandwidth", lambda *_: MadeUpMachine.bandwidth)
    batch = from_lists([[1] * 12] * 11)
    rates = measure_rates(make_compact(), batch)
    assert rates.ffn == pytest.approx(MadeUpMachine.ffn, rel=1e-6) == rates.peak
    assert rates.projections == pytest.approx(MadeUpMachine.projections, rel=0.01)
    assert rates.core == pytest.approx(MadeUpMachine.core, rel=0.01)
    assert rates.attention_call_s == rates.ffn_call_s == pytest.approx(2e-6 + 1e-8)
    assert rates.ffn_rows_s == pytest.approx(2e-6 + 132 * 1e-8)
    assert rates.fixed_s == pytest.approx(MadeUpMachine.fixed_s - rates.ffn_rows_s)


RATES = Rates(
    fixed_s=1e-4,
    attention_call_s=1e-6,
    ffn_call_s=1e-6,
    attention_rows_s=2e-6,
    ffn_rows_s=2e-6,
    ffn=1e9,
    projections=1e9,
    core=1e9,
    bandwidth=1e9,
    peak=2e9,
)


@pytest.fixture(autouse=True)
def _little_to_collect():
    """Timing begins with a collection: half a second over all that tests have imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def short_turns(monkeypatch):
    """For what does not depend on how long anything took."""
    monkeypatch.setattr(timing, "TURN_S", 0.0)
    monkeypatch.setattr(measuring, "turn", functools.partial(timing.turn, pause_s=0.0))


def explained(monkeypatch, **changes) -> Explanation:
    monkeypatch.setattr(explaining, "measure_rates", lambda *_: Rates(**(RATES.to_dict() | changes)))
    with torch.inference_mode():
        return explain(make_compact(), from_lists([[1] * 5, [2] * 9]), "2 x 7")


def test_live_sublayers_alone_are_listed_with_their_work(monkeypatch):
    attention, ffn = explained(monkeypatch).sublayers
    assert (attention.layer, attention.kind, attention.units) == (0, "attention", 1)
    assert (ffn.layer, ffn.kind, ffn.units) == (1, "ffn", 5)
    assert attention.flop == 14 * 8 * 30 * 8 + 4 * 8 * (5 * 5 + 9 * 9)
    assert ffn.flop == 14 * 4 * 30 * 5
    assert (attention.weight_bytes, ffn.weight_bytes) == (4 * 4 * 8 * 30, 4 * 2 * 5 * 30)
    assert attention.measured_ms > 0 or ffn.measured_ms > 0
    assert attention.floor_ms == pytest.approx(1e3 * attention.flop / 2e9)


@pytest.mark.usefixtures("short_turns")
def test_prediction_is_rows_weights_products_in_whole_panels_and_the_inside_of_heads(monkeypatch):
    explanation = explained(monkeypatch)
    attention, ffn = explanation.sublayers
    arriving = 1 - HIDDEN * 13 / 14
    work = 14 * 4 * 16 * (30 + 32) / 2  # 5 dims are a panel of 16, half of the products have 30 hidden dims as columns
    assert ffn.predicted_ms == pytest.approx(1e3 * (2e-6 + (work * 13 / 14 + 4 * 2 * 5 * 30 * arriving) / 1e9))
    work = 14 * 8 * 8 * 31
    weights = 4 * 4 * 8 * 30
    assert attention.predicted_ms == pytest.approx(
        1e3 * (2e-6 + (work * 13 / 14 + weights * arriving + 4 * 8 * 106) / 1e9)
    )
    assert explanation.predicted_ms == pytest.approx(0.1 + attention.predicted_ms + ffn.predicted_ms)
    assert explanation.error == pytest.approx(explanation.predicted_ms / explanation.measured_ms - 1)


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, ARITHMETIC),
        ({"bandwidth": 1e6}, MEMORY),
        ({"ffn_rows_s": 1e-2, "attention_rows_s": 1e-2}, MEMORY),
        ({"ffn_call_s": 1e-2, "attention_call_s": 1e-2}, CALL),
    ],
    ids=["products", "weights", "rows", "calls"],
)
def test_what_takes_most_is_the_bound(monkeypatch, changes, bound):
    assert {s.bound for s in explained(monkeypatch, **changes).sublayers} == {bound}


@pytest.mark.usefixtures("short_turns")
def test_the_first_token_comes_with_the_weights(monkeypatch):
    monkeypatch.setattr(explaining, "measure_rates", lambda *_: RATES)
    with torch.inference_mode():
        _, ffn = explain(make_compact(), from_lists([[1]]), "1 x 1").sublayers
    assert ffn.predicted_ms == pytest.approx(1e3 * (2e-6 + 1200 / 1e9))


def test_heads_are_never_faster_inside_than_the_largest_product(monkeypatch):
    class Noisy(MadeUpMachine):
        core = 1e15  # as if longer sequences cost nothing

    monkeypatch.setattr(measuring, "Clock", type("Clock", (Noisy,), {"each": measuring.Clock.each, "base": None}))
    monkeypatch.setattr(measuring, "_bandwidth", lambda *_: MadeUpMachine.bandwidth)
    rates = measure_rates(make_compact(), from_lists([[1] * 12] * 11))
    assert rates.core == pytest.approx(rates.peak)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2), ("int8", 1)])
def test_weights_are_counted_in_their_precision(precision, size):
    assert weight_bytes(3, 5, precision) == 2 * 3 * 5 * size


@pytest.mark.usefixtures("short_turns")
def test_rates_of_this_machine_are_possible():
    for model in (make_compact(), make_dense()):
        with torch.inference_mode():
            rates = measure_rates(model, from_lists([[1] * 8] * 4))
        assert all(value > 0 for value in rates.to_dict().values())
        json.dumps(rates.to_dict())


def test_tables_say_where_the_time_goes():
    sublayers = [
        Sublayer(0, "attention", 3, 2e6, 4000, 0.5, 0.6, 0.1, ARITHMETIC),
        Sublayer(2, "ffn", 40, 1e6, 8000, 0.2, 0.2, 0.1, MEMORY),
    ]
    explanation = Explanation("1 x 8", RATES, sublayers, 0.75)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  # closed with the test
    console.print(sublayer_table(explanation))
    console.print(total_table([explanation]))
    printed = " ".join(console.export_text().split())
    for words in ("3 heads", "40 dims", "0.8 0.75 +6.7 %", "63 % 25 % 13 % arithmetic", "arrive at 1.0 GB/s"):
        assert words in printed
    assert explanation.to_dict()["sublayers"][1]["bound"] == MEMORY
