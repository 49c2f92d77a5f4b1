"""The search for a structure of the speedup asked for, on machines that are made up."""

from __future__ import annotations

import pytest

from cofi.masks import Gates, SpeedupTarget, fit
from cofi.measure.speedup import Ratio
from cofi.train.calibration import CORRECTIONS, nearest, search
from cofi.train.deployment import TOLERANCE
from tests.masks.test_constraint import BERT_SMALL, learned_gates
from tests.masks.test_latency import latency_model


def target_of(speedup: float) -> SpeedupTarget:
    return SpeedupTarget(latency_model(BERT_SMALL), speedup)


def rounds_by(
    law, speedup: float, gates: Gates | None = None, uncertainty: float = 0.001, disturbed: bool = False
) -> list:
    """What the search finds where milliseconds of the profile take law(ms)."""
    gates, target = gates or learned_gates(0), target_of(speedup)

    def measure(masks) -> Ratio:
        ms = law(target.latency.of_structure(masks.structure(gates.shape)))
        return Ratio(law(target.dense_ms) / ms, uncertainty, 20, {}, 50.0, disturbed)

    return list(search(gates, target, fit(gates, target), measure))


class TestSearch:
    @pytest.mark.parametrize("speedup", [2.0, 4.0, 8.0])
    @pytest.mark.parametrize("law", ["call", "interaction", "slow dense"])
    def test_it_comes_within_the_tolerance(self, law, speedup):
        dense = target_of(speedup).dense_ms
        laws = {
            "call": lambda ms: ms + 0.1 * dense / speedup,  # a tenth of the compact model's time, whatever it is
            "interaction": lambda ms: ms * (dense / ms) ** 0.05,
            "slow dense": lambda ms: 1.15 * ms if ms == dense else ms,
        }
        rounds = rounds_by(laws[law], speedup)
        assert abs(rounds[0].measured / speedup - 1) > TOLERANCE
        assert abs(rounds[-1].measured / speedup - 1) <= TOLERANCE and len(rounds) <= 1 + CORRECTIONS
        assert nearest(rounds, speedup) == len(rounds) - 1
        for before, after in zip(rounds, rounds[1:], strict=False):
            assert after.aim == pytest.approx(before.predicted * speedup / before.measured)
            assert after.predicted == pytest.approx(after.aim, rel=0.01)

    def test_what_is_on_target_is_measured_once(self):
        (found,) = rounds_by(lambda ms: 1.7 * ms, 4.0)
        assert found.aim == 4.0 and found.measured == pytest.approx(found.predicted)

    def test_what_noise_may_be_is_not_corrected(self):
        by_call = 0.08 * target_of(4.0).dense_ms / 4
        assert len(rounds_by(lambda ms: ms + by_call, 4.0, uncertainty=0.1)) == 1
        assert len(rounds_by(lambda ms: ms + by_call, 4.0, uncertainty=0.05)) > 1

    def test_what_a_disturbed_measurement_says_is_not_corrected(self):
        (found,) = rounds_by(lambda ms: 1.0 + ms, 4.0, disturbed=True)
        assert found.disturbed and found.estimate == pytest.approx(found.predicted)
        assert abs(found.measured / 4.0 - 1) > TOLERANCE and found.is_close(4.0)

    def test_a_correction_is_taken_as_it_was_meant_where_it_could_not_be_measured(self):
        by_call = 0.1 * target_of(4.0).dense_ms / 4
        gates, target, made = learned_gates(0), target_of(4.0), []

        def measure(masks) -> Ratio:
            ms = target.latency.of_structure(masks.structure(gates.shape)) + by_call
            made.append((target.dense_ms + by_call) / ms)
            return Ratio(made[-1] if len(made) == 1 else 7.0, 0.001, 20, {}, 50.0, disturbed=len(made) > 1)

        rounds = list(search(gates, target, fit(gates, target), measure))
        assert [found.disturbed for found in rounds] == [False, True] and nearest(rounds, 4.0) == 1
        assert rounds[0].estimate == rounds[0].measured and abs(rounds[0].off(4.0)) > TOLERANCE
        assert rounds[1].estimate == pytest.approx(4.0, rel=0.01) and rounds[1].measured == 7.0
        assert made[1] == pytest.approx(4.0, rel=TOLERANCE)

    def test_a_machine_that_follows_no_law_ends_it_and_the_nearest_stays(self):
        gates, target = learned_gates(0), target_of(4.0)
        measured = iter([3.0, 3.7, 5.6, 2.9, 4.0])
        rounds = list(search(gates, target, {}, lambda masks: Ratio(next(measured), 0.0, 20, {}, 50.0)))
        assert [found.measured for found in rounds] == [3.0, 3.7, 5.6, 2.9][: 1 + CORRECTIONS]
        assert nearest(rounds, 4.0) == 1

    def test_it_ends_where_the_profile_ends(self):
        by_call = 0.5 * target_of(8.0).dense_ms  # no structure is twice as fast
        rounds = rounds_by(lambda ms: ms + by_call, 8.0)
        assert len(rounds) <= 1 + CORRECTIONS and rounds[-1].aim < target_of(8.0).most

    def test_nothing_is_aimed_at_that_is_slower_than_dense(self):
        dense = target_of(1.01).dense_ms
        rounds = rounds_by(lambda ms: 2 * ms if ms == dense else ms, 1.05)
        assert rounds[0].measured > 2 and {found.aim for found in rounds[1:]} <= {1.0}

    def test_a_structure_is_measured_once(self):
        """Whole sublayers alone: a correction may be too small to change anything."""
        seen = []
        gates, target = learned_gates(1, "mha,ffn"), target_of(2.0)

        def measure(masks) -> Ratio:
            seen.append(masks.structure(gates.shape))
            return Ratio(1.94, 0.0, 20, {}, 50.0)

        rounds = list(search(gates, target, fit(gates, target), measure))
        assert len(rounds) == len(seen) == len(set(seen)) < 1 + CORRECTIONS
