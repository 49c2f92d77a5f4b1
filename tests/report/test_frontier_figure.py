"""The figure of scores against size or speed: one scale for all tasks, ticks that are few and inside it."""

from __future__ import annotations

import pytest

from cofi.report.frontier_figure import Curve, Mark, Ticks, frontier_figure, log_ticks
from cofi.report.theme import LIGHT


def scales(*curves: Curve) -> list[tuple[tuple[float, float], list[float]]]:
    """Limits and ticks of the horizontal axis of each panel."""
    tasks = {curve.task: 80.0 for curve in curves}
    with LIGHT.applied():
        figure = frontier_figure(curves, tasks, dict.fromkeys(tasks, "accuracy"), Ticks("speedup"), LIGHT)
    return [(axes.get_xlim(), list(axes.xaxis.get_major_locator()())) for axes in figure.axes]


@pytest.mark.parametrize("x", [0.5446, 1.0, 2.0, 12.49])
def test_one_point_alone_lies_between_ticks_of_its_own(x):
    (((low, high), ticks),) = scales(Curve("mrpc", "default", (Mark(x, 79.0),)))
    assert low < x < high
    assert 2 <= len(ticks) <= 6 and ticks == sorted(set(ticks))
    assert low <= ticks[0] and ticks[-1] <= high


def test_all_tasks_have_the_scale_that_holds_every_point():
    many = Curve("cola", "default", (Mark(2.0, 30.0), Mark(19.0, 23.0, 4.7)))
    one = Curve("squad", "default", (Mark(12.0, 52.0),))
    first, second = scales(many, one)
    assert first == second
    assert first[0][0] < 2.0 and first[0][1] > 19.0


@pytest.mark.parametrize(("low", "high"), [(0.5, 10.6), (1.0, 12.0), (0.98, 1.02), (1.8, 2.2), (1.0, 1e6), (3.1, 3.9)])
def test_ticks_are_few_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and ticks == sorted(set(ticks))
    assert low <= ticks[0] and ticks[-1] <= high
