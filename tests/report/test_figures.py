"""Figures: drawn for any shape of run, honest about what they show."""

from __future__ import annotations

import json
import struct
from xml.etree import ElementTree

import numpy as np
import pytest

from cofi.errors import UserError
from cofi.report.figures import draw_figures
from cofi.report.reading import read_run
from cofi.report.series import MAX_POINTS, column, thin
from cofi.report.structure_figure import structure_figure
from cofi.report.theme import DARK, LIGHT, label_line_ends, spread
from cofi.report.training_figure import training_figure
from cofi.report.values import Sizes


def texts(figure) -> list[str]:
    found = []
    for axes in figure.axes:
        found += [text.get_text() for text in axes.texts] + [axes.get_title("left")]
    return found


def svg_text(svg: bytes) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_both_figures_in_both_colour_schemes(make_run, result):
    structure, training = draw_figures(read_run(make_run(result)))
    assert (structure.name, training.name) == ("structure", "training")
    for figure in (structure, training):
        assert figure.png.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", figure.png[16:24])
        assert width > 1000 and height > 100
        assert LIGHT.ink.encode() in figure.light_svg and LIGHT.ink.encode() not in figure.dark_svg
        assert DARK.ink.encode() in figure.dark_svg


def test_structure_names_what_is_kept_and_marks_what_is_removed(make_run, result):
    structure = draw_figures(read_run(make_run(result)))[0]
    text = svg_text(structure.light_svg)
    assert "Attention heads kept, of 12" in text and "764 of 768" in text
    assert text.count("removed") == 2
    assert "layer 2: 0 heads and 12 dims" in structure.words.alt


def test_without_dense_sizes_no_dense_size_is_claimed(make_run, result):
    del result["dense_structure"]
    structure = draw_figures(read_run(make_run(result)))[0]
    text = svg_text(structure.light_svg)
    assert " of " not in text and "dense" not in structure.words.caption


@pytest.mark.parametrize("n_layers", [1, 6, 24, 48])
def test_structure_of_any_depth(n_layers):
    kept = Sizes((1,) * n_layers, (7,) * n_layers, 9)
    with LIGHT.applied():
        figure = structure_figure(kept, Sizes((40,) * n_layers, (100,) * n_layers, 10), LIGHT)
    assert texts(figure).count("7") == n_layers + (n_layers >= 7)  # the count of each layer, and the name of layer 7


def test_structure_and_dense_of_different_depth_are_refused():
    with pytest.raises(UserError, match="2 layers and dense_structure 1"):
        structure_figure(Sizes((1, 1), (1, 1), 1), Sizes((1,), (1,), 1), LIGHT)


def test_training_has_every_panel_and_phase(make_run, result):
    run = read_run(make_run(result))
    with LIGHT.applied():
        figure = training_figure(run, LIGHT)
    assert figure is not None
    words = texts(figure)
    for title in ("Score (accuracy)", "Sparsity", "Lagrange multipliers and penalty"):
        assert title in words
    for phase in ("teacher", "distil", "prune", "finetune"):
        assert words.count(phase) == 1
    assert {"teacher 92.4", "student 80.0", "expected", "target", "λ₁", "λ₂", "penalty"} <= set(words)


def test_panels_without_data_are_left_out(tmp_path):
    lines = [{"type": "step", "phase": "teacher", "step": step, "loss": 1.0} for step in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with LIGHT.applied():
        figure = training_figure(read_run(tmp_path), LIGHT)
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == ["Loss"]


def test_a_single_line_is_enough(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"type": "step", "phase": "prune", "step": 0, "loss": 0.5}\n')
    assert [figure.name for figure in draw_figures(read_run(tmp_path))] == ["training"]


def test_a_log_without_numbers_gives_no_figure(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"type": "step", "phase": "prune", "step": 0, "loss": NaN}\n')
    assert draw_figures(read_run(tmp_path)) == []


def test_dollar_signs_are_text_not_formulas(make_run, result):
    training = draw_figures(read_run(make_run(result | {"metric": r"$\undefined{$ a $"})))[1]
    assert r"$\undefined{$ a $" in svg_text(training.light_svg)


def test_long_logs_are_thinned_to_means_with_their_spread():
    records = [{"step": step, "loss": float(step % 10)} for step in range(100_000)]
    series = thin(*column(records, "loss"))
    assert len(series.x) == MAX_POINTS and series.thinned
    np.testing.assert_allclose(series.y, 4.5, atol=0.05)
    assert np.all(series.low < 2) and np.all(series.high > 7)
    assert 0 <= series.x[0] < series.x[-1] <= 99_999


def test_short_logs_are_drawn_as_they_are():
    x, y = column(
        [{"step": 3, "loss": 1}, {"step": 4}, {"step": 5, "loss": float("nan")}, {"step": 6, "loss": 2}], "loss"
    )
    series = thin(x, y)
    assert (series.x.tolist(), series.y.tolist(), series.thinned) == ([3, 6], [1, 2], False)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.5, 0.6]),
        ([0.98, 0.97], [1.0, 0.9]),
        ([-1.0, 2.0], [0.0, 1.0]),
        ([], []),
    ],
)
def test_labels_are_moved_apart_and_kept_inside(positions, expected):
    assert spread(positions, 0.1, 0.0, 1.0) == pytest.approx(expected)


def test_no_labels_is_no_error():
    with LIGHT.applied():
        figure = structure_figure(Sizes((1,), (1,), 1), None, LIGHT)
        before = len(figure.axes[0].texts)
        label_line_ends(figure.axes[0], [])
    assert len(figure.axes[0].texts) == before


def test_a_sublayer_of_bias_only_is_not_called_removed(make_run, result):
    directory = make_run(result)
    (directory / "model").mkdir()
    per_layer = {"1": {"attention_bias_only": True}, "2": {"ffn_bias_only": False}, "x": 3, "0": None}
    (directory / "model" / "config.json").write_text(json.dumps({"per_layer_config": per_layer}))
    structure = draw_figures(read_run(directory))[0]
    text = svg_text(structure.light_svg)
    assert (text.count("bias only"), text.count("removed")) == (1, 1)
    assert "bias is left" in structure.words.caption


def test_only_the_evaluation_a_phase_hands_on_is_ringed(tmp_path):
    scores = [(70.0, True), (80.0, True), (75.0, False)]
    lines = [
        {"type": "evaluation", "phase": "prune", "step": step, "score": score, "selected": selected}
        for step, (score, selected) in enumerate(scores)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with LIGHT.applied():
        figure = training_figure(read_run(tmp_path), LIGHT)
    assert figure is not None
    rings = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert rings == [[[1.0, 80.0]]]
