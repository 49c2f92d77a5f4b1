"""The last stage of a sweep: how fast every finished point is against its teacher, on batches of its task's lengths."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from cofi.bench.subjects import load_models
from cofi.data import load_tokenizer, tokenize
from cofi.errors import UserError
from cofi.files import write_atomically
from cofi.machine import pick_device
from cofi.measure.rate import undisturbed_gflops
from cofi.measure.speedup import measure_speedup
from cofi.models import CompactModel
from cofi.models.locate import locate
from cofi.sweep.store import Place
from cofi.train.config import TrainConfig
from cofi.train.inputs import read_splits
from cofi.train.result import SPEED_BATCH_SIZES

DEFAULT_SECONDS = 20.0  # a point
OF_LENGTHS = (  # settings that say which validation rows there are, and how they are cut
    *("task", "data", "train_file", "validation_file", "validation_fraction", "max_eval_samples"),
    *("text_column", "pair_column", "task_kind", "max_length", "doc_stride"),
)
LOOKS = 4  # times as long the machine is looked at before: its own rate shows in a tenth of that


class Measurer:
    """Times points, all of them in one state of the machine: left alone. `lengths` of a task are read once."""

    def __init__(self, settings: dict[str, Any], known: Sequence[float] = ()) -> None:
        """settings: those of the command; where it says nothing the point was run on its own device.

        known: rates of this machine at which points were timed before
        """
        self.device = pick_device(settings.get("device", "auto"))
        self.seconds = settings.get("measure_seconds", DEFAULT_SECONDS)
        if self.seconds <= 0:
            raise UserError(f"--measure-seconds must be above 0 with --measure, got {self.seconds}")
        self._known = known
        self._lengths: dict[tuple[Any, ...], list[int]] = {}

    @cached_property
    def gflops(self) -> float:
        """What the machine makes of a plain product when it is left alone: the state that points are timed in.

        It may not be left alone just now, so what was known before counts where it is more.
        """
        now = undisturbed_gflops(self.device, LOOKS * self.seconds)
        return max(now, statistics.median(self._known)) if self._known else now

    @property
    def announcement(self) -> str:
        """What to say before the first point; it takes as long as looking at the machine does."""
        return f"timing where a plain product makes {self.gflops:.3g} GFLOP/s, this machine's own rate"

    def measure(self, place: Place) -> dict[str, Any]:
        """Time the model of a finished point and write speed.json. Raises UserError where a model is not there."""
        speed = self.time(place.run.read_config(), *self.models(place))
        write_atomically(place.speed, (json.dumps(speed, indent=2) + "\n").encode())
        return speed

    def models(self, place: Place) -> tuple[CompactModel, CompactModel]:
        """The teacher and the small model of a finished point. Raises UserError where one is not there."""
        models = load_models(str(place.run.model), place.run.read_config().teacher, self.device)
        if models.dense is None:
            raise UserError(f"{place.run.root} names no teacher to compare its speed with")
        return models.dense, models.compact

    def time(self, config: TrainConfig, dense: CompactModel, compact: CompactModel) -> dict[str, Any]:
        """Time two models on batches like those of the validation rows of a run with these settings."""
        lengths = self.lengths(config)
        return measure_speedup(dense, compact, lengths, SPEED_BATCH_SIZES, seconds=self.seconds, gflops=self.gflops)

    def lengths(self, config: TrainConfig) -> list[int]:
        """Tokens of each validation example, as the run saw them."""
        key = tuple(getattr(config, name) for name in OF_LENGTHS)
        if key not in self._lengths:
            splits = read_splits(config)
            tokenizer = load_tokenizer(locate(config.teacher or config.model))
            split = tokenize(splits.validation, splits.task, tokenizer, config.max_length, config.doc_stride)
            self._lengths[key] = [int(length) for length in split.lengths]
        return self._lengths[key]


def in_words(name: str, speed: dict[str, Any]) -> str:
    """A line for whoever waits: `cola-default-s95-seed1: batch 1 8.5, batch 32 14.2`."""
    disturbed = " (beside other work)" if any(speed["measured"]["disturbed"].values()) else ""
    return f"{name}: " + ", ".join(f"{batch} {ratio:g}" for batch, ratio in speed["speedup"].items()) + disturbed
