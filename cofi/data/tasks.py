"""The registry of tasks: a task is one entry here."""

from __future__ import annotations

from cofi.data.glue import GLUE_TASKS
from cofi.data.pydocs import PYDOCS
from cofi.data.squad import SQUAD
from cofi.data.task import Task
from cofi.data.text import TEXT
from cofi.errors import UserError

__all__ = ["TASKS", "Task", "get_task"]

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE_TASKS, SQUAD, PYDOCS, TEXT)}


def get_task(name: str) -> Task:
    """The task called `name`. Raises UserError that lists the valid names."""
    if name not in TASKS:
        raise UserError(
            f"--task must be one of {', '.join(TASKS)}, or the name of a folder in the --data directory, got {name!r}"
        )
    return TASKS[name]
