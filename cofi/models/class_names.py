"""Whether the classes of a head are those of a task, by their names: checkpoints number classes differently."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cofi.errors import UserError

_NUMBER = re.compile(r"(label_)?-?\d+")  # what transformers, and files with integers, call a class that nobody named


def class_names(id2label: Mapping[Any, Any] | None) -> tuple[str, ...]:
    """The names of a head's outputs in their order."""
    return tuple(str(name) for _, name in sorted((id2label or {}).items(), key=lambda item: int(item[0])))


def label_fields(id2label: Any, num_labels: int) -> dict[str, Any]:
    """id2label and label2id of a head with `num_labels` outputs, numbers as text, as JSON has them.

    Raises UserError where `id2label` is not one name for each output.
    """
    numbers = [str(i) for i in range(num_labels)]
    names = {str(i): name for i, name in id2label.items()} if isinstance(id2label, Mapping) else {}
    if names.keys() != set(numbers) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"id2label must name the classifier's {num_labels} labels, got {str(id2label)[:80]}")
    return {"id2label": {i: names[i] for i in numbers}, "label2id": {names[i]: int(i) for i in numbers}}


def output_order(have: Sequence[str], want: Sequence[str]) -> list[int] | None:
    """For each class of `want` the output of a head whose outputs are called `have`; None where they are other classes.

    The same names are the same classes, in whatever order; case counts where names differ in nothing else. Where one
    side has numbers for names (LABEL_0, 0) that the other has not, outputs are taken to be in the task's order.
    """
    if len(have) != len(want):
        return None
    lower = [name.lower() for name in have], [name.lower() for name in want]
    for here, there in ((list(have), list(want)), lower):
        if len(set(here)) == len(here) and sorted(here) == sorted(there):
            return [here.index(name) for name in there]
    in_order = lower[0] == lower[1] or any(map(are_numbers, lower))
    return list(range(len(want))) if in_order else None


def is_number(name: str) -> bool:
    """Whether this is what a class is called that nobody has named."""
    return _NUMBER.fullmatch(name.lower()) is not None


def are_numbers(names: Sequence[str]) -> bool:
    """Whether nobody has named the classes."""
    return all(map(is_number, names))
