"""Published results that grow: sweeps on several machines, or at several times, put their points into one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cofi.errors import UserError
from cofi.sweep.store import DONE, teacher_of
from cofi.sweep.summary import Record
from cofi.train.config import SETTLED_BY_STUDENT


def merged(earlier: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """`summary`, with the points and commands that `earlier` holds beside.

    Of a point that both have, that of `summary` counts where it is finished there. A point that does not say on which
    machine it ran takes that of its summary. Raises UserError where points of one task and variant were made with
    different settings, of models of different size, or by different teachers: their mean would say nothing.
    """
    points = {record["name"]: _placed(record, earlier) for record in earlier["points"]}
    for record in summary["points"]:
        if record["status"] == DONE or record["name"] not in points:
            points[record["name"]] = _placed(record, summary)
    check_one_setting(list(points.values()))
    commands = [*earlier.get("commands", []), *summary["commands"]]
    return {**summary, "commands": list(dict.fromkeys(commands)), "points": list(points.values())}


def _placed(record: Record, summary: Mapping[str, Any]) -> Record:
    return record if record["status"] != DONE else {"machine": summary["machine"], **record}


def check_one_setting(records: Sequence[Record]) -> None:
    """Raise UserError where records of one task and variant have different settings, unlike models or teachers.

    Of a record that does not name one of the first two (older sweeps, points that are not finished) nothing can be
    said, nor of rates that points which have not begun leave to the student.
    """
    _check_teachers(records)
    for key, in_words in (("settings", _difference), ("dense_structure", _of_size)):
        first: dict[tuple[str, str], Record] = {}
        for record in records:
            if key not in record:
                continue
            other = first.setdefault((record["task"], record["variant"]), record)
            if _told(record, other, key) != _told(other, record, key):
                raise _unlike(other, in_words(other, record), record, in_words(record, other))


def _check_teachers(records: Sequence[Record]) -> None:
    """All seeds of a task and variant learn from one teacher, or each from that of its own seed."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if "settings" in record:  # or nothing can be said
            groups.setdefault((record["task"], record["variant"]), []).append(record)
    for of in groups.values():
        shared = next((record for record in of if teacher_of(record) != record["seed"]), of[0])
        other = next((record for record in of if teacher_of(record) != teacher_of(shared)), shared)
        if other is not shared and teacher_of(shared) != shared["seed"]:
            raise _unlike(other, _by_teacher(other), shared, _by_teacher(shared))


def _by_teacher(record: Record) -> str:
    return f"a teacher of seed {teacher_of(record)}"


def _unlike(held: Record, in_words: str, record: Record, otherwise: str) -> UserError:
    return UserError(
        f"--results would hold {held['name']} with {in_words}, but {record['name']} has {otherwise}: give one of the "
        "two variants another name, or name another folder"
    )


def _told(record: Record, other: Record, key: str) -> dict[str, Any]:
    """What `record` says under `key` that can be held against `other`."""
    left_open = {name for name in SETTLED_BY_STUDENT for each in (record, other) if each[key].get(name, 0) is None}
    return {name: value for name, value in record[key].items() if name not in left_open}


def _difference(record: Record, other: Record) -> str:
    """The settings of `record` that `other` does not have, in words."""
    mine, theirs = _told(record, other, "settings"), _told(other, record, "settings")
    found = [f"{name} {value}" for name, value in mine.items() if name not in theirs or theirs[name] != value]
    return ", ".join(found) or "the defaults"


def _of_size(record: Record, other: Record) -> str:
    """What the model was before pruning."""
    dense = record["dense_structure"]
    return f"{len(dense['heads'])} layers of {dense['hidden']} hidden dims before pruning"
