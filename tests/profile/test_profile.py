"""The file of a profile: what is written is read back, anything else is refused with the field and the rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cofi.errors import UserError
from cofi.masks import ModelShape
from cofi.profile.plan import CHECKS, dim_knots, head_knots, hidden_knots, sample, uniform
from cofi.profile.profile import find_profile, read_profile
from tests.tiny_profile import SHAPE, tiny_profile, write_profile

BERT = ModelShape(n_layers=12, n_heads=12, head_dim=64, d_hidden=768, d_int=3072)


def test_a_profile_is_read_as_it_was_written(tmp_path):
    assert read_profile(write_profile(tmp_path)) == tiny_profile()


def changed(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: Any) -> None:
        for step in path[:-1]:
            values = values[step]
        if to is ...:
            del values[path[-1]]
        else:
            values[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("format", to=1), "format 2, got 1): measure one with python -m cofi.profile"),
        (changed("gflops", to=0), "gflops must be above 0"),
        (changed("gflops", to="fast"), "gflops must hold numbers from 0 to 1e9, got 'fast'"),
        (changed("tables", to=...), "'tables' is missing"),
        (changed("tables", to=[]), "no latency profile"),
        (changed("shape", "d_hidden", to=0), "d_hidden must be an integer of at least 1, got 0"),
        (changed("tables", "ffn", "units", to=[0, 24, 8, 48]), "rows must be two or more rising numbers"),
        (changed("tables", "ffn", "units", 3, to=40), "ffn must reach from 0 to 48 units"),
        (changed("tables", "attention", "units", 0, to=1), "attention must reach from 0 to 4 units"),
        (changed("tables", "attention", "hidden", 2, to=31), "and to 32 hidden dims"),
        (changed("tables", "ffn", "hidden", to=[1, 8, 32]), "must have the same hidden dims"),
        (changed("tables", "ffn", "ms", 0, 0, to=-1.0), "ffn.ms must hold numbers from 0 to 1e9, got -1.0"),
        (changed("tables", "ffn", "ms", 0, 0, to=float("nan")), "ffn.ms must hold numbers"),
        (changed("tables", "ffn", "ms", 0, to=[1.0]), "values must be 4 rows of 3"),
        (changed("tables", "ffn", "ms", to=5), "ffn.ms must be a list of rows"),
        (changed("tables", "fixed_ms", to=[1.0]), "one entry for each of 3 knots"),
        (changed("tables", "whole_ms", to=[0.0, 0.0, 0.0]), "must take some time"),
        (changed("lengths", to=[]), "lengths must be a list of whole numbers"),
        (changed("lengths", to=[0]), "lengths must hold whole numbers from 1, got 0"),
        (changed("threads", to=True), "threads must hold whole numbers"),
        (changed("precision", to="fp8"), "precision must be one of fp32, int8, bf16, got 'fp8'"),
        (changed("machine", to={}), "'device' is missing"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, change, words):
    path = write_profile(tmp_path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError) as error:
        read_profile(path)
    assert words in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("field", ["n_layers", "n_heads", "head_dim", "d_hidden", "d_int"])
def test_another_encoder_is_refused_with_both_sizes(field):
    other = replace(SHAPE, **{field: getattr(SHAPE, field) + 1})
    with pytest.raises(UserError, match=rf"x.json was measured for {getattr(SHAPE, field)} .*\(tiny\), small has") as e:
        tiny_profile().check_model(other, "small", "x.json")
    assert "python -m cofi.profile small" in str(e.value)


def test_other_threads_are_refused_on_a_cpu():
    profile = tiny_profile(threads=3)
    with pytest.raises(UserError, match="measured with --threads 3, this run has 2: give --threads 3"):
        profile.check_threads(2, "x.json")
    profile.check_threads(3, "x.json")
    replace(profile, machine={"device": "a GPU"}).check_threads(2, "x.json")


def test_a_name_is_looked_for_among_the_profiles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"neither cpu nor profiles/cpu.json is there: measure one"):
        find_profile("cpu")
    Path("profiles").mkdir()
    write_profile(Path("profiles"))
    assert find_profile("cpu") == Path("profiles/cpu.json") == find_profile("profiles/cpu.json")


class TestPlan:
    @pytest.mark.parametrize("shape", [BERT, SHAPE, ModelShape(6, 12, 32, 384, 1536), ModelShape(1, 1, 1, 1, 1)])
    def test_knots_rise_from_nothing_to_everything(self, shape):
        for knots, size, least in (
            (head_knots(shape), shape.n_heads, 0),
            (dim_knots(shape), shape.d_int, 0),
            (hidden_knots(shape), shape.d_hidden, 1),
        ):
            assert knots[-1] == size and knots[0] >= min(least, size)
            assert knots == sorted(set(knots)) or size == 1
        assert head_knots(shape)[0] == dim_knots(shape)[0] == 0

    def test_inner_knots_lie_in_the_middle_of_a_panel(self):
        assert {n % 16 for n in dim_knots(BERT)[1:-1] + hidden_knots(BERT)[:-1]} == {8}

    @pytest.mark.parametrize("scale", CHECKS)
    def test_sampled_structures_are_legal_and_differ_by_seed(self, scale):
        structures = [sample(BERT, scale, seed) for seed in range(20)]
        assert len(set(structures)) > 15 and sample(BERT, scale, 0) == structures[0]
        for s in structures:
            assert all((n > 0) == kept for n, kept in zip(s.heads + s.intermediate, s.mha + s.ffn, strict=True))
            assert max(s.heads) <= 12 and max(s.intermediate) <= 3072 and 576 <= s.hidden <= 768

    def test_whole_models_have_every_sublayer(self):
        assert uniform(BERT, 0.01).heads == (1,) * 12 and all(uniform(BERT, 0.01).ffn)
        assert uniform(BERT, 1.0).heads == (12,) * 12


def test_the_model_of_a_profile_reads_its_tables():
    latency = tiny_profile().latency_model()
    expected = 0.03 + 2 * (0.01 + 0.4) + 2 * (0.01 + 0.48)
    assert latency.parts({}).item() == pytest.approx(expected, rel=1e-5)
    assert latency({}).item() == pytest.approx(0.5 + 5.5 * (expected - 0.5) / 4.5, rel=1e-5)
    assert latency.parts({"mha": torch.zeros(2)}).item() == pytest.approx(expected - 0.82, rel=1e-5)
