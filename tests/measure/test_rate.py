"""The rate of the machine: which rounds count by it, how long one waits for them, what is left where none comes."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from cofi.measure import rate, timing
from cofi.measure.rate import (
    GAUGE,
    PATIENCE,
    SLOWER,
    TRUSTED_ROUNDS,
    Gauge,
    Rounds,
    gauged_rounds,
    is_undisturbed,
    undisturbed_gflops,
)
from cofi.measure.timing import MIN_ROUNDS

CPU = torch.device("cpu")
QUIET, BUSY = (Gauge(CPU).rate(1.0) / gflops for gflops in (150.0, 110.0))  # seconds of the gauge


@pytest.fixture
def clock(monkeypatch):
    """A machine of which a round takes a second, and whose states are listed; the last of them stays.

    "q" is left alone, "b" is busy, "m" becomes busy within the round.
    """

    def run(states: str, **arguments) -> tuple[Rounds, int]:
        now, made, readings = [0.0], iter(itertools.chain(states, itertools.repeat(states[-1]))), []
        turns = []

        def turn(call, synchronize, pause_s):
            if isinstance(call, Gauge):
                readings.append(1)
                if len(readings) % 2 == 1:  # before the only call
                    turns.append(next(made))
                else:
                    now[0] += 1.0
                busy = turns[-1] == "b" or (turns[-1] == "m" and len(readings) % 2 == 0)
                return BUSY if busy else QUIET
            return 1.0 if turns[-1] == "q" else 2.0

        monkeypatch.setattr(timing, "turn", turn)
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        found = gauged_rounds({"a": lambda: None}, CPU, **{"rounds": 100} | arguments)
        return found, len(turns)

    return run


def test_the_rate_is_that_of_the_product():
    size = rate.SIZES["cpu"]
    gauge = Gauge(CPU)
    gauge()
    assert gauge._out.shape == (size, size) and (gauge._out == size).all()
    assert gauge.rate(1e-3) == pytest.approx(2e-6 * size**3)


def test_the_rate_of_this_machine_is_possible():
    assert 0.01 < undisturbed_gflops(CPU, 0.05) < 1e6


def test_a_machine_left_alone_for_some_of_the_time_is_known(monkeypatch):
    times = itertools.cycle([BUSY] * 7 + [QUIET] * 2)
    monkeypatch.setattr(timing, "turn", lambda *_: next(times))
    assert undisturbed_gflops(CPU, 0.05) == pytest.approx(150.0)


@pytest.mark.parametrize(("gflops", "alone"), [(101 - 100 * SLOWER, True), (99 - 100 * SLOWER, False), (150.0, True)])
def test_a_machine_left_alone_makes_its_own_rate_or_more(gflops, alone):
    assert is_undisturbed(gflops, 100.0) is alone


class TestRounds:
    """Rounds of one call have two readings, of two calls three."""

    def test_without_a_rate_all_count(self):
        found = Rounds.of({"a": [1.0, 2.0, 3.0], GAUGE: [QUIET, BUSY, BUSY, BUSY, BUSY, BUSY]}, Gauge(CPU), None)
        assert found == Rounds({"a": [1.0, 2.0, 3.0]}, pytest.approx(110.0), 3) and found.counted == 3

    def test_those_at_the_rate_before_and_after_each_call_count(self):
        readings = [QUIET] * 3 + [QUIET, QUIET, BUSY] + [QUIET] * 6 + [QUIET, BUSY, QUIET]
        samples = {"a": [1.0, 2.0, 3.0, 4.0, 9.0], "b": [5.0, 6.0, 7.0, 8.0, 9.0], GAUGE: readings}
        found = Rounds.of(samples, Gauge(CPU), 145.0)
        assert found.samples == {"a": [1.0, 3.0, 4.0], "b": [5.0, 7.0, 8.0]} and not found.disturbed
        assert found.gflops == pytest.approx(150.0) and (found.counted, found.made) == (3, 5)

    def test_too_few_at_the_rate_and_all_are_given_as_disturbed(self):
        found = Rounds.of({"a": [1.0, 2.0, 3.0], GAUGE: [BUSY] * 4 + [QUIET] * 2}, Gauge(CPU), 150.0)
        assert found.disturbed and found.counted == 0 and found.samples == {"a": [1.0, 2.0, 3.0]}
        assert found.gflops == pytest.approx(110.0)

    def test_a_rate_from_a_busy_hour_does_not_leave_out_the_quiet_rounds(self):
        found = Rounds.of({"a": [1.0, 2.0, 3.0], GAUGE: [BUSY] * 2 + [QUIET] * 4}, Gauge(CPU), 112.0)
        assert found.counted == 3 and not found.disturbed


class TestGaugedRounds:
    def test_a_busy_while_is_waited_for(self, clock):
        found, made = clock(
            "b" * 9 + "m" * 8 + "q", seconds=5.0, gflops=150.0, enough=lambda found, late: found.counted >= 4
        )
        assert made == found.made == 21 and found.samples == {"a": [1.0] * 4} and not found.disturbed

    def test_with_the_rate_at_hand_it_ends_in_time(self, clock):
        found, made = clock("q", seconds=5.0, gflops=150.0)
        assert made == 5 and found.counted == 5

    def test_after_a_busy_while_ten_are_enough_or_half_of_all(self, clock):
        found, made = clock("b" * 20 + "q", seconds=5.0, gflops=150.0)
        assert made == 30 and found.counted == TRUSTED_ROUNDS == 10
        assert clock("bbbq", seconds=5.0, gflops=150.0)[1] == 6

    def test_patience_ends(self, clock):
        found, made = clock("b", seconds=5.0, gflops=150.0)
        assert made == 5 * PATIENCE and found.disturbed and found.gflops == pytest.approx(110.0)

    def test_without_a_rate_there_is_nothing_to_wait_for(self, clock):
        found, made = clock("b", seconds=5.0)
        assert made == 5 and not found.disturbed and found.counted == 5

    def test_no_more_rounds_count_than_asked_for(self, clock):
        found, made = clock("bbbbq", seconds=1e9, gflops=150.0, rounds=20)
        assert made == 24 and found.counted == 20

    def test_the_least_number_is_made_in_any_time(self, clock):
        assert clock("q", seconds=1e-9, gflops=150.0)[1] == MIN_ROUNDS
