"""Gates that are set by what units are worth: once, or again as the target comes closer and the model has changed.

In one go to 5 % of the weights a model says one class for epochs, and its gates with it. In a few leaps it learns in
between, and each looks at the model that the one before has left (docs/tried.md: CoLA at 95 %).
"""

from __future__ import annotations

from collections.abc import Callable

from cofi.baselines import fisher_scores
from cofi.masks import SparsityStairs, behind_those_kept, start_by_worth
from cofi.train.objective import Student
from cofi.train.scoring import evidence
from cofi.train.session import Session


def setting_gates(session: Session, student: Student, stairs: SparsityStairs) -> Callable[[int], None]:
    """What `Student.before_step` has to do: at each leap of the target, gates that are on it."""

    def before_step(step: int) -> None:
        if step in stairs.leaps:
            _set_gates(session, student, stairs.leaps[step], first=step == 0)

    return before_step


def _set_gates(session: Session, student: Student, goal: float, *, first: bool) -> None:
    """first: of a model that no mask has touched, whatever its gates say"""
    gates, target = student.gates, student.held_to.target
    assert gates is not None
    masks = None if first else gates.deterministic()
    scores = fisher_scores(evidence(session, student.model, masks))
    start_by_worth(gates, scores if first else behind_those_kept(gates, scores), target, goal)
    shown = f"{target.unit} {target.shown(goal):.3f}"
    session.monitor.message(f"gates are set by Fisher scores, to {shown}")
