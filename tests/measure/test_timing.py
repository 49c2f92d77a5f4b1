"""Interleaved rounds: who is called when, what is waited for, when it ends, and what is made of the times."""

from __future__ import annotations

import gc
import itertools

import pytest

from cofi.measure import timing
from cofi.measure.timing import GAUGE, MIN_ROUNDS, Timing, interleaved, summarize


class TestInterleaved:
    def test_every_round_calls_each_once_and_everyone_follows_everyone(self, monkeypatch):
        monkeypatch.setattr("cofi.measure.timing.TURN_S", 0.0)
        calls: list[str] = []
        samples = interleaved({name: lambda n=name: calls.append(n) for name in "abc"}, rounds=40, warmup=1, pause_s=0)
        turns = [name for name, run in itertools.groupby(calls[3:]) for _ in range(len(list(run)) // 2)]
        rounds = ["".join(turns[i : i + 3]) for i in range(0, 120, 3)]
        assert len(turns) == 120 and {"".join(sorted(names)) for names in rounds} == {"abc"} and len(set(rounds)) == 6
        assert rounds[0] == "abc" and {name: len(times) for name, times in samples.items()} == dict.fromkeys("abc", 40)

    def test_a_turn_is_more_than_one_call(self):
        calls: list[str] = []
        interleaved({"a": lambda: calls.append("a")}, rounds=1, warmup=0)
        assert len(calls) > 3

    def test_a_time_limit_ends_it_after_the_least_number_of_rounds(self):
        samples = interleaved({"a": lambda: None}, rounds=10_000_000, seconds=1e-9)
        assert len(samples["a"]) == MIN_ROUNDS
        assert len(interleaved({"a": lambda: None}, rounds=2, seconds=1e-9)["a"]) == 2

    def test_a_gauge_takes_a_turn_before_and_after_each(self, monkeypatch):
        seen = []
        monkeypatch.setattr(timing, "turn", lambda call, *_: seen.append(call()) or len(seen))
        samples = interleaved({name: lambda n=name: n for name in "ab"}, 2, 0, gauge=lambda: "gauge")
        assert (
            len(seen) == 10
            and [seen[i] for i in (0, 2, 4, 5, 7, 9)] == ["gauge"] * 6
            and sorted(seen[1:4:2] + seen[6:9:2]) == [*"aabb"]
        )
        assert samples[GAUGE] == [1, 3, 5, 6, 8, 10] and len(samples["a"]) == len(samples["b"]) == 2

    def test_the_device_is_waited_for_within_the_time(self):
        events: list[str] = []
        interleaved({"a": lambda: events.append("run")}, 2, 0, synchronize=lambda: events.append("wait"))
        assert len(events) > 4 and events == ["run", "wait"] * (len(events) // 2)

    def test_garbage_collection_is_off_meanwhile_and_back_afterwards(self):
        seen = []
        interleaved({"a": lambda: seen.append(gc.isenabled())}, rounds=2, warmup=0)
        assert len(seen) > 2 and not any(seen) and gc.isenabled()
        with pytest.raises(ZeroDivisionError):
            interleaved({"a": lambda: 1 // 0}, warmup=0)
        assert gc.isenabled()

    def test_idle_threads_of_the_one_before_are_waited_for_even_at_the_end(self, monkeypatch):
        pauses: list[float] = []
        monkeypatch.setattr(timing.time, "sleep", pauses.append)
        interleaved({"a": lambda: None, "b": lambda: None}, rounds=2, pause_s=0.125)
        assert pauses == [0.125] * 5

    @pytest.mark.parametrize("bad", [{"rounds": 0}, {"warmup": -1}, {"seconds": 0.0}, {"pause_s": -1.0}])
    def test_bad_arguments_are_named(self, bad):
        with pytest.raises(ValueError, match="rounds >= 1"):
            interleaved({"a": lambda: None}, **bad)
        with pytest.raises(ValueError, match="a callable"):
            interleaved({})


def test_summary_is_median_and_percentiles():
    timing = summarize([float(value) for value in range(100, -1, -1)])
    assert (timing.median_s, timing.p10_s, timing.p90_s, timing.rounds) == (50.0, 10.0, 90.0, 101)
    assert timing.spread == pytest.approx(1.6)
    assert summarize([2.0]) == Timing(2.0, 2.0, 2.0, 1)
