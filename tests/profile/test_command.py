"""`python -m cofi.profile` on a tiny encoder, and its mistakes."""

from __future__ import annotations

import itertools
import json
import os
import statistics

import pytest
import torch

from cofi.cli import run as run_command
from cofi.masks import Structure
from cofi.measure.rate import Gauge
from cofi.models import CompactConfig, from_lists
from cofi.profile import measure as measuring
from cofi.profile.__main__ import main
from cofi.profile.measure import MOST_PASSES, Stopwatch, as_tables, measure, points
from cofi.profile.parts import Deployment
from cofi.profile.plan import CHECKS, sample
from cofi.profile.profile import read_profile
from tests.tiny_profile import SHAPE

FEW = ["--passes", "1", "--batch-size", "2", "--device", "cpu"]


@pytest.fixture
def _fast(monkeypatch):
    """One call in place of a turn: these tests are about what is measured, not how well."""

    def once(call, synchronize):
        call()
        return 1e-3

    monkeypatch.setattr(measuring, "turn", once)


def deployment() -> Deployment:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 32}
    config = CompactConfig(vocab_size=60, hidden_size=32, head="classification", **sizes)
    batch = from_lists([[5, 6, 7, 8], [9] * 9])
    return Deployment(config, batch, torch.device("cpu"), "fp32")


def test_a_profile_of_a_task_has_its_lengths_and_is_read_back(checkpoint, data, tmp_path, capsys, _fast):
    output = tmp_path / "profiles" / "mine.json"
    arguments = [str(checkpoint), "--task", "animals", "--data", str(data), "--output", str(output), *FEW]
    assert main(arguments) == 0
    profile = read_profile(output)
    assert profile.shape == SHAPE and profile.threads == torch.get_num_threads()
    assert len(profile.lengths) == 2 and 3 < profile.lengths[0] < profile.lengths[1] <= 11
    assert profile.machine["cpu"] and profile.versions["torch"] == torch.__version__
    assert len(profile.checks) == len(CHECKS)
    shown = capsys.readouterr().out
    assert "attention" in shown and "FFN" in shown and shown.count("unseen structure") == len(CHECKS)


def test_of_an_embedding_single_texts_are_timed(checkpoint, tmp_path, _fast):
    pairs = [{"sentence1": "a cat", "sentence2": "the dog sat here", "label": i % 3 / 2} for i in range(8)]
    for name in ("train", "validation"):
        (tmp_path / "pairs").mkdir(exist_ok=True)
        (tmp_path / "pairs" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    lengths = {}
    for kind in ("regression", "embedding"):
        output = tmp_path / f"{kind}.json"
        asked = ["--task", "pairs", "--task-kind", kind, "--data", str(tmp_path), "--output", str(output)]
        assert main([str(checkpoint), *asked, *FEW]) == 0
        lengths[kind] = read_profile(output).lengths
    assert min(lengths["regression"]) > max(lengths["embedding"])


def test_lengths_may_be_given(checkpoint, tmp_path, _fast):
    output = tmp_path / "p.json"
    assert main([str(checkpoint), "--seq-len", "7", "--precision", "bf16", "--output", str(output), *FEW]) == 0
    profile = read_profile(output)
    assert (profile.lengths, profile.precision) == ([7, 7], "bf16")


def test_a_profile_of_a_machine_in_use_is_said(checkpoint, tmp_path, monkeypatch, capsys, _fast):
    monkeypatch.setattr(measuring, "is_undisturbed", lambda *_: False)
    assert main([str(checkpoint), "--seq-len", "7", "--output", str(tmp_path / "p.json"), *FEW]) == 0
    said = " ".join(capsys.readouterr().err.split())
    size = len(points(deployment(), SHAPE, 0))
    assert f"{size} of {size} sizes were never timed with the machine left alone: measure again" in said


def test_every_point_computes_what_it_says():
    """Sizes by the sublayers that run: a removed one passes x on, a kept one does not."""
    parts = deployment()
    with torch.inference_mode():
        calls = [parts.single(20), parts.attention(0, 20), parts.attention(3, 20), parts.ffn(40, 20)]
        states = [call() for call in calls]
        assert all(state.shape == (13, 20) for state in states)
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(states, 2))
        assert [call.args[4].n_layers for call in calls] == [1, 2, 2, 2]
        structure = Structure((1, 0), (0, 7), 30, (True, False), (False, True))
        assert parts.whole(structure)().logits.shape == (2, 2)


def test_tables_are_the_quiet_times_less_the_call(monkeypatch):
    """Times made up from the sizes come back from the tables; neither a burst in one pass reaches them, nor most of the
    passes, in which a neighbour slows down the gauge a little and the points more, each in its own way."""
    parts, shape = deployment(), SHAPE
    cost = {"attention": 0.3, "ffn": 0.02}
    watch = Stopwatch(torch.device("cpu"))

    def seconds(key) -> float:
        kind, *sizes = key
        if kind in cost:
            return 1e-3 * (0.1 + shape.n_layers * (cost[kind] * sizes[0] * sizes[1] / 32 + 0.05))
        if kind == "whole":
            s = sizes[0]
            units = cost["attention"] * sum(s.heads) + cost["ffn"] * sum(s.intermediate)
            kept = 0.05 * (sum(s.mha) + sum(s.ffn))
            return 1e-3 * 2 * (0.2 * s.hidden / 32 + units * s.hidden / 32 + kept)
        return 1e-3 * (0.1 + 0.05 if kind == "single" else 0.05 + 0.2 * sizes[0] / 32)

    quiet = Gauge(torch.device("cpu")).rate(50.0)  # seconds of the gauge where it makes 50 GFLOP/s
    for slow, gauge in [(1.0, quiet), (7.0, quiet), (1.1, 1.02 * quiet), *[(None, 1.3 * quiet)] * 6]:
        for number, point in enumerate(points(parts, shape, 0)):
            factor = slow or 1.4 + number % 9 / 8
            watch._seconds.setdefault(point.key, []).append((seconds(point.key) * factor, gauge))
    tables = as_tables(watch, shape)
    assert tables.attention.ms[-1][-1] == pytest.approx(0.3 * 4 + 0.05)
    assert tables.ffn.ms[0] == pytest.approx([0.05] * len(tables.ffn.hidden))
    latency = tables.latency_model(shape)
    for structure in (sample(shape, scale, 0) for scale in CHECKS):
        expected = 1e3 * seconds(("whole", structure))
        assert latency.of_structure(structure) == pytest.approx(expected, rel=0.02)
    assert watch.spread() == pytest.approx(6.0)
    assert watch.gflops() == pytest.approx(50.0)


class TestDisturbed:
    """A machine in made-up states: "q" is left alone; "b" is busy, all takes twice as long."""

    @pytest.fixture
    def profiled(self, monkeypatch):
        def run(states, passes: int = 4):
            made, state, totals = [], ["q"], []

            def turn(call, synchronize):
                if not isinstance(call, Gauge):
                    made.append(call)
                    state[0] = states(len(made))
                return 1e-3 * (1 if state[0] == "q" else 2)

            monkeypatch.setattr(measuring, "turn", turn)
            found = measure(deployment(), SHAPE, passes, 0, totals.append)
            assert len(totals) == len(made) == totals[-1]
            return found, len(made) / len(points(deployment(), SHAPE, 0))

        return run

    def test_a_point_that_was_left_alone_often_enough_is_not_timed_again(self, profiled):
        found, passes = profiled(lambda number: "b" if number % 11 == 0 else "q")
        assert passes == 4 and found.disturbed == 0 and found.gflops == Gauge(torch.device("cpu")).rate(1e-3)
        assert set(found.tables.whole_ms[1:]) == {1.0}

    def test_those_that_were_not_are(self, profiled):
        size = len(points(deployment(), SHAPE, 0))
        found, passes = profiled(lambda number: "b" if number <= 4.5 * size and number % size > size // 2 else "q")
        assert 4 < passes < 4 * MOST_PASSES and found.disturbed == 0 and found.spread == 0.0
        assert set(found.tables.whole_ms[1:]) == {1.0}

    def test_what_never_was_is_counted_and_has_the_times_it_has(self, profiled):
        size = len(points(deployment(), SHAPE, 0))
        left = size - 10
        found, passes = profiled(lambda number: "b" if number > 10 else "q", passes=1)
        assert found.disturbed == left and passes * size == size + (MOST_PASSES - 1) * left
        assert {check.measured_ms for check in found.checks} == {2.0}

    def test_a_machine_that_others_always_use_is_taken_as_it_is(self, profiled):
        found, passes = profiled(lambda number: "b")
        assert (passes, found.disturbed) == (4, 0) and set(found.tables.whole_ms[1:]) == {2.0}


def test_passes_turn_and_each_point_is_counted(_fast):
    seen = []
    found = measure(deployment(), SHAPE, 2, 0, seen.append)
    size = len(points(deployment(), SHAPE, 0))
    assert seen == [2 * size] * (2 * size) and found.spread == 0.0 and found.disturbed == 0
    assert len(found.checks) == 3 and statistics.mean(found.tables.fixed_ms) == pytest.approx(1.0)
    assert found.gflops == pytest.approx(Gauge(torch.device("cpu")).rate(1e-3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size: must be a whole number from 1"),
        (["--seq-len", "33"], "--seq-len must be at most 32"),
        (["--seed", str(2**31)], "--seed must be in [0, 2147483648), got 2147483648"),
        (["--seq-len", "3", "--data", "."], "--data is about the texts of --task, which is not given"),
        (["--max-length", "3"], "--max-length is about the texts of --task, which is not given"),
        (["--task-kind", "embedding"], "--task-kind is about the texts of --task, which is not given"),
        (["--task", "text"], "--task text has no texts of its own"),
        (["--seq-len", "3", "--task", "animals"], "--task: not allowed with argument --seq-len"),
        (["--task", "nothing"], "nothing"),
        (["--precision", "fp8"], "--precision"),
        (["--device", "nowhere"], "--device must be"),
        (["--output", "."], "--output . is there already"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_exit_2(checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run_command(lambda: main([str(checkpoint), *arguments])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.rglob("*.json"))


def test_a_profile_in_the_way_is_not_replaced(checkpoint, tmp_path, capsys, _fast):
    output = tmp_path / "p.json"
    output.write_text("mine")
    arguments = [str(checkpoint), "--seq-len", "3", "--output", str(output), *FEW]
    assert run_command(lambda: main(arguments)) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err and output.read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert json.loads(output.read_text())["format"] == 2


def test_a_directory_that_cannot_be_written_is_refused_before_the_work(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert run_command(lambda: main([str(checkpoint), "--output", str(tmp_path / "p.json")])) == 2
    assert f"p.json cannot be written: {tmp_path} is not a writable directory" in capsys.readouterr().err


def test_weights_are_packed_once_not_at_every_call():
    """Under inference mode, where all is timed, weights that were made there would be packed again and again."""
    parts = deployment()
    with torch.inference_mode():
        for call in (parts.ffn(8, 32), parts.attention(2, 32)):
            assert not any(weight.is_inference() for weight in call.args[3])
        model = parts.bare().func
        assert not any(weight.is_inference() for weight in model.parameters())
