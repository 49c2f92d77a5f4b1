"""Points of published results timed once more, here: speeds of two machines say nothing beside each other.

A folder that grows for months holds points of several machines, and their models may be gone. How fast a model is
depends on its structure and not on its weights, and the structure is in its record: a model of new weights stands for
it. So does one for its teacher. Nothing has to be trained to know how fast all of them are on one's own machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

from cofi.errors import UserError
from cofi.masks import Structure
from cofi.models import CompactConfig, CompactModel
from cofi.models.locate import locate
from cofi.prune.compact import compact_config
from cofi.report.values import Sizes, read_sizes
from cofi.sweep.measuring import OF_LENGTHS, Measurer, in_words
from cofi.sweep.results import read_summary, save_summary
from cofi.sweep.store import DONE, NOT_OF_VARIANT, Place, Store, speed_fields
from cofi.sweep.summary import Record, is_disturbed, place_of
from cofi.train.arguments import resolve
from cofi.train.config import TrainConfig, defaults
from cofi.train.inputs import load_for_task, read_splits


def retime(
    folder: Path,
    store: Store,
    measurer: Measurer,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    console: Console,
) -> None:
    """Time the points of `folder` that were timed elsewhere and are not in `store`; each is saved when it is timed.

    settings: those of the command, which say where model and data are of a task that has no finished point in `store`

    What cannot be timed keeps the speed it has, with a line that says why.
    """
    summary = read_summary(folder)
    own = {point.name: store.place(point) for point in store.found() if store.place(point).status == DONE}
    left = [record for record in untimed(summary["points"], machine) if record["name"] not in own]
    if left:
        console.print(
            f"{len(left)} points of {folder} to time, {measurer.announcement}", highlight=False, soft_wrap=True
        )
    teachers = _Teachers(list(own.values()), measurer, settings)
    for number, record in enumerate(left, 1):
        try:
            config, dense = teachers.of(record)
            speed = measurer.time(config, dense, rebuilt(record, dense))
        except UserError as error:
            console.print(f"not timed: {record['name']}: {error}", highlight=False, soft_wrap=True, markup=False)
            continue
        record.update(speed_fields(speed))
        save_summary(folder, summary)
        words = in_words(record["name"], speed)
        console.print(f"timed {number} of {len(left)}: {words}", highlight=False, soft_wrap=True)


class _Teachers:
    """What points are as fast as: the teacher of a finished point of their task, else `--model` with a new head."""

    def __init__(self, places: Sequence[Place], measurer: Measurer, settings: Mapping[str, Any]) -> None:
        self._measurer, self._settings = measurer, settings
        self._places = {place.run.read_config().task: place for place in places}
        self._loaded: dict[str, CompactModel] = {}

    def of(self, record: Record) -> tuple[TrainConfig, CompactModel]:
        """And the settings of a run that was evaluated on the same rows as `record`. Raises UserError."""
        task = record["task"]
        if task in self._places:
            place = self._places[task]
            config = _as_recorded(place.run.read_config(), record)
            return config, self._load(task, lambda: self._measurer.models(place)[0])
        kept = {name: value for name, value in record.get("settings", {}).items() if name in OF_LENGTHS}
        config = resolve({**self._settings, **kept, "task": task})
        return config, self._load(task, lambda: untrained(config, self._measurer.device))

    def _load(self, task: str, load: Callable[[], CompactModel]) -> CompactModel:
        if task not in self._loaded:
            self._loaded[task] = load()
        return self._loaded[task]


def _as_recorded(config: TrainConfig, record: Record) -> TrainConfig:
    """`config`, a run of another variant maybe, with the rows of the record's and their lengths. Raises UserError."""
    if "settings" not in record:  # of an old sweep: nothing is known
        return config
    usual = defaults()
    kept = {name: record["settings"].get(name, usual[name]) for name in OF_LENGTHS if name not in NOT_OF_VARIANT}
    return dataclasses.replace(config, **kept)


def untrained(config: TrainConfig, device: torch.device) -> CompactModel:
    """The model of a run before its teacher is fine-tuned: as fast as that one. Raises UserError."""
    model = load_for_task(locate(config.model), read_splits(config).task, config.seed).model
    torch.nn.Module.to(model, device)  # in place; transformers wraps `to` with a type hint of its own
    return model.eval()


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
