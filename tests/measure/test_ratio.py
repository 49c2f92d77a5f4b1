"""How many times as fast: the estimate, what it is uncertain by, and when timing ends."""

from __future__ import annotations

import itertools
import random

import pytest

from cofi.measure import timing
from cofi.measure.rate import TRUSTED_ROUNDS, Gauge, Rounds
from cofi.measure.speedup import MAX_ROUNDS, Ratio, measure_ratio
from cofi.measure.timing import MIN_ROUNDS
from tests.measure.encoders import make_compact, make_dense

WITHIN = {"within": 0.005, "at_most": 0.02, "gflops": None}


def ratio_of(teacher: list[float], compact: list[float]) -> Ratio:
    return Ratio.of(Rounds({"teacher": teacher, "compact": compact}, 150.0, len(teacher)))


class TestRatio:
    def test_what_slows_both_within_a_round_does_not_count(self):
        drift = [1.0 + 0.2 * (i % 7) for i in range(40)]
        ratio = ratio_of([4e-3 * d for d in drift], [1e-3 * d for d in drift])
        assert (ratio.value, ratio.uncertainty, ratio.rounds) == (4.0, pytest.approx(0, abs=1e-9), 40)
        assert ratio.ms["teacher"] == pytest.approx(4 * ratio.ms["compact"], rel=1e-3)

    def test_the_interval_holds_the_truth_as_often_as_it_says(self):
        draw = random.Random(0)
        hits = 0
        for _ in range(400):
            teacher = [4.0 * draw.gauss(1, 0.05) for _ in range(40)]
            found = ratio_of(teacher, [1.0] * 40)
            hits += abs(found.value / 4.0 - 1) <= found.uncertainty
        assert 0.9 <= hits / 400 <= 0.99

    def test_bursts_in_a_few_rounds_do_not_count(self):
        compact = [1e-3 * (1 + 0.001 * (i % 5)) for i in range(40)]
        teacher = [9e-2 if i % 9 == 0 else 4e-3 for i in range(40)]
        ratio = ratio_of(teacher, compact)
        assert ratio.value == pytest.approx(4.0, rel=5e-3) and ratio.uncertainty < 2e-3

    @pytest.mark.parametrize(
        ("noise", "least", "most"), [(0.0, TRUSTED_ROUNDS, TRUSTED_ROUNDS), (0.3, MAX_ROUNDS, MAX_ROUNDS)]
    )
    def test_timing_goes_on_until_noise_allows_an_answer(self, monkeypatch, noise, least, most):
        draw = random.Random(0)
        monkeypatch.setattr(timing, "turn", lambda call, synchronize, pause_s: 1e-3 * draw.uniform(1, 1 + noise))
        ratio = measure_ratio(make_dense(), make_compact(), [4, 9], seconds=60.0, **WITHIN)
        assert least <= ratio.rounds <= most and (ratio.uncertainty <= 0.005) == (noise == 0)

    def test_time_ends_it_on_a_machine_that_is_never_quiet(self, monkeypatch):
        draw = random.Random(0)
        monkeypatch.setattr(timing, "turn", lambda call, synchronize, pause_s: 1e-3 * draw.uniform(1, 9))
        assert measure_ratio(make_dense(), make_compact(), [4], seconds=1e-9, **WITHIN).rounds == MIN_ROUNDS

    def test_when_time_is_up_less_certainty_is_enough(self, monkeypatch):
        """A ratio that is uncertain by 1 % after 10 rounds: too much for `within`, not for `at_most`."""
        now, dense = [0.0], itertools.cycle([1.0, 1.02])

        def turn(call, synchronize, pause_s):
            now[0] += 1.0
            if isinstance(call, Gauge):
                return call.rate(1.0) / 150.0
            return next(dense) if call.func.config.hidden_size == 32 else 1.0

        monkeypatch.setattr(timing, "turn", turn)
        monkeypatch.setattr("time.perf_counter", lambda: now[0])
        ratio = measure_ratio(make_dense(), make_compact(), [4], seconds=60.0, **WITHIN | {"gflops": 150.0})
        assert (ratio.rounds, ratio.disturbed) == (12, False) and 0.005 < ratio.uncertainty < 0.02

    def test_only_rounds_at_the_rate_count(self, monkeypatch):
        """Beside a neighbour the dense model is slowed down twice as much as the other."""
        draw, busy, readings = random.Random(0), [True], []

        def turn(call, synchronize, pause_s):
            if isinstance(call, Gauge):
                if len(readings) % 3 == 0:  # the first of a round
                    busy[0] = draw.random() < 0.8
                readings.append(call.rate(1.0) / (110.0 if busy[0] else 150.0))
                return readings[-1]
            if call.func.config.hidden_size == 32:  # the dense one
                return 20.0 if busy[0] else 8.0
            return 1.2 if busy[0] else 1.0

        monkeypatch.setattr(timing, "turn", turn)
        found = measure_ratio(make_dense(), make_compact(), [4], seconds=60.0, **WITHIN | {"gflops": 148.0})
        assert (found.value, found.rounds, found.gflops, found.disturbed) == (8.0, TRUSTED_ROUNDS, 150.0, False)
        found = measure_ratio(make_dense(), make_compact(), [4], seconds=0.001, **WITHIN | {"gflops": 300.0})
        assert found.disturbed and found.value > 8.0

    def test_both_models_see_the_very_lengths(self, monkeypatch):
        seen = []

        def turn(call, synchronize, pause_s):
            if isinstance(call, Gauge):
                return 1e-3
            seen.append(call.keywords["batch"].cu_seqlens.diff().tolist())
            return 1e-3

        monkeypatch.setattr(timing, "turn", turn)
        assert measure_ratio(make_dense(), make_compact(), [3, 9, 9], seconds=1.0, **WITHIN).value == 1.0
        assert seen == [[3, 9, 9]] * (2 * TRUSTED_ROUNDS)

    @pytest.mark.parametrize("lengths", [[], [0]])
    def test_bad_lengths_are_refused(self, lengths):
        with pytest.raises(ValueError, match="positive integers"):
            measure_ratio(make_dense(), make_compact(), lengths, seconds=1.0, **WITHIN)
