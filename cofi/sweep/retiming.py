"""Points of published results timed once more, here: speeds of two machines say nothing beside each other.

A folder that grows for months holds points of several machines, and their models may be gone. How fast a model is
depends on its structure and not on its weights, and the structure is in its record: a model of new weights stands for
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

from cofi.errors import UserError
from cofi.masks import Structure
from cofi.models import CompactConfig, CompactModel
from cofi.prune.compact import compact_config
from cofi.report.values import Sizes, read_sizes
from cofi.sweep.measuring import Measurer, in_words
from cofi.sweep.results import read_summary, save_summary
from cofi.sweep.store import DONE, Place, Store, speed_fields
from cofi.sweep.summary import Record, is_disturbed, place_of


def retime(folder: Path, store: Store, measurer: Measurer, machine: Mapping[str, Any], console: Console) -> None:
    """Time the points of `folder` that were timed elsewhere and are not in `store`; each is saved when it is timed.

    A point needs the teacher of its task, so one point of the task must be finished in `store`. What cannot be timed
    keeps the speed it has, with a line that says why.
    """
    summary = read_summary(folder)
    own = {point.name: store.place(point) for point in store.found() if store.place(point).status == DONE}
    left = [record for record in untimed(summary["points"], machine) if record["name"] not in own]
    for number, record in enumerate(left, 1):
        try:
            place = _of_task(own.values(), record["task"])
            dense, _ = measurer.models(place)
            speed = measurer.time(place, dense, rebuilt(record, dense))
        except UserError as error:
            console.print(f"not timed: {record['name']}: {error}", highlight=False, soft_wrap=True, markup=False)
            continue
        record.update(speed_fields(speed))
        save_summary(folder, summary)
        words = in_words(record["name"], speed)
        console.print(f"timed {number} of {len(left)}: {words}", highlight=False, soft_wrap=True)


def untimed(records: Sequence[Record], machine: Mapping[str, Any] | None = None) -> list[Record]:
    """Finished points that were not timed, or beside other work alone, or with `machine` not on such a one."""
    done = [record for record in records if record["status"] == DONE]
    if machine is None:
        return [record for record in done if "measured_on" not in record or is_disturbed(record)]
    place = place_of(machine)
    return [record for record in done if place_of(record.get("measured_on", {})) != place or is_disturbed(record)]


def rebuilt(record: Record, dense: CompactModel) -> CompactModel:
    """A model of the record's structure with new weights, on the device of `dense`, its teacher.

    A record does not say whether sublayers without units are removed or keep their bias and LayerNorm, but its number
    of parameters does. Raises UserError where `dense` cut to the structure has another number.
    """
    sizes = read_sizes(record.get("structure"), record["name"])
    if sizes is None:
        raise UserError("its record has no structure")
    for keeps_empty in (False, True):
        config = compact_config(cast(CompactConfig, dense.config), _structure(sizes, keeps_empty=keeps_empty))
        with torch.device("meta"):
            size = type(dense)(config).num_parameters()
        if size == record["total_params_after"]:
            model = type(dense)(config)
            torch.nn.Module.to(model, dense.device)  # in place; transformers wraps `to` with a type hint of its own
            return model.eval()
    raise UserError(
        f"its structure makes {size:,} parameters of this teacher, the record has {record['total_params_after']:,}: "
        "it is of another one"
    )


def _structure(sizes: Sizes, *, keeps_empty: bool) -> Structure:
    mha, ffn = (tuple(n > 0 or keeps_empty for n in units) for units in (sizes.heads, sizes.intermediate))
    return Structure(sizes.heads, sizes.intermediate, sizes.hidden, mha, ffn)


def _of_task(places: Iterable[Place], task: str) -> Place:
    for place in places:
        if place.run.read_config().task == task:
            return place
    raise UserError(f"--output holds no finished point of {task}, whose teacher it needs")
