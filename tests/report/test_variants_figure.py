"""The figure of variants at one goal: rows in order, a dot a seed."""

from __future__ import annotations

import pytest

from cofi.report.theme import LIGHT, grid, to_png
from cofi.report.variants_figure import ordered, variants_figure

SCORES = {
    "cola": {"default": [30.0, 28.0], "no-layer": [25.0], "no-hidden": [29.5]},
    "mrpc": {"default": [80.0], "no-layer": [79.0]},
    "rte": {"odd": [55.0]},
}


def test_rows_follow_their_distance_from_the_reference_and_the_incomparable_come_last():
    assert ordered(SCORES) == ["default", "no-hidden", "no-layer", "odd"]  # +0.5; -4 and -1; nothing to compare with


def test_a_dot_for_every_seed_and_a_bar_at_the_mean_of_several():
    tasks = dict.fromkeys(SCORES, 31.0)
    with LIGHT.applied():
        figure = variants_figure(SCORES, tasks, {task: f"{task}, 95 %" for task in SCORES}, LIGHT)
        assert to_png(figure)[:4] == b"\x89PNG"
    cola, mrpc, rte = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["cola, 95 %", "mrpc, 95 %", "rte, 95 %"]
    assert [text.get_text() for text in cola.get_yticklabels()] == ordered(SCORES)
    dots = {
        line.get_ydata()[0]: list(line.get_xdata())
        for line in cola.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    }
    assert dots == {0: [30.0, 28.0], 1: [29.5], 2: [25.0]}
    assert [line.get_xdata()[0] for line in cola.lines if line.get_marker() == "|"] == [pytest.approx(29.0)]
    assert not [line for line in mrpc.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in rte.lines if line.get_marker() == "o" and len(line.get_xdata())] == [
        [55.0]
    ]


def test_panels_fill_their_rows():
    assert [grid(n, 3) for n in (1, 2, 3, 4, 5, 6, 7)] == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (2, 3), (3, 3)]
