"""Where a split comes from: a file that was named, the data directory, this machine, or the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cofi.data import pydocs
from cofi.data.kinds import ASKED_KINDS, AUTO
from cofi.data.table import FORMATS, RawTable, describe_folder, read_table
from cofi.data.task import Task
from cofi.data.tasks import TASKS, get_task
from cofi.errors import UserError

AnyPath = str | Path


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What a caller of `load_splits` asked for; the fields are its arguments."""

    data_dir: AnyPath | None = None
    train_file: AnyPath | None = None
    validation_file: AnyPath | None = None
    validation_fraction: float | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    task_kind: str = AUTO

    def __post_init__(self) -> None:
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        fraction = self.validation_fraction
        if fraction is not None and not 0 < fraction < 1:
            raise UserError(f"validation_fraction must be between 0 and 1, got {fraction}")
        if fraction is not None and self.validation_file is not None:
            raise UserError("--validation-fraction holds rows out and --validation-file names others: give one")
        if self.task_kind not in (AUTO, *ASKED_KINDS):
            raise UserError(f"task_kind must be one of {', '.join((AUTO, *ASKED_KINDS))}, got {self.task_kind!r}")

    def file(self, split: str) -> AnyPath | None:
        return self.train_file if split == "train" else self.validation_file


def base_task(name: str, request: DataRequest) -> Task:
    """The registered task, or one of kind "auto" for a folder of the data directory. Raises UserError."""
    if request.data_dir is not None and not Path(request.data_dir).is_dir():
        raise UserError(f"no such directory: --data {request.data_dir}")
    if name in TASKS:
        return TASKS[name]
    if request.data_dir is not None and name and name == Path(name).name and Path(request.data_dir, name).is_dir():
        return Task(name=name, kind=AUTO)
    return get_task(name)


def find_split(task: Task, split: str, request: DataRequest) -> RawTable:
    """The table of "train" or "validation". Raises UserError that says where it was looked for and what would help."""
    named = request.file(split)
    if named is not None:
        return read_table(Path(named))
    if request.data_dir is not None:
        return _from_folder(task, split, Path(request.data_dir))
    if task.generate is not None:
        return RawTable(task.generate()[split], pydocs.SOURCE)
    if task.hub is not None:
        return from_hub(task, _split_names(task, split)[0])
    raise UserError(_what_to_give(task, split))


def find_extra(task: Task, split: str, request: DataRequest) -> RawTable | None:
    """A further validation set such as MNLI mismatched, or None where the data directory does not hold it."""
    if request.validation_file is not None or request.validation_fraction is not None:
        return None
    if request.data_dir is None:
        return from_hub(task, split)
    path = _existing(Path(request.data_dir, task.name), (split,))
    return None if path is None else read_table(path)


def _what_to_give(task: Task, split: str) -> str:
    if split == "train":
        return f"task {task.name} has no data of its own: give --train-file FILE, or --data DIR with DIR/{task.name}/"
    return f"task {task.name} needs --validation-file FILE, or --validation-fraction to hold out training rows"


def _split_names(task: Task, split: str) -> tuple[str, ...]:
    """Names of a split, the hub's own first."""
    own = split if task.hub is None else getattr(task.hub, split)
    return (own,) if own == split else (own, split)


def _existing(folder: Path, stems: tuple[str, ...]) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for stem in stems for suffix in FORMATS)
    return next((path for path in candidates if path.is_file()), None)


def _from_folder(task: Task, split: str, data_dir: Path) -> RawTable:
    folder = data_dir / task.name
    if not folder.is_dir():
        raise UserError(f"no folder {task.name} in the data directory ({describe_folder(data_dir)})")
    stems = _split_names(task, split)
    path = _existing(folder, stems)
    if path is None:
        names = " or ".join(f"{stem}.parquet" for stem in stems)
        hint = f"name another file with --{split}-file" + (" or use --validation-fraction" if split != "train" else "")
        raise UserError(f"no {names} (nor .csv, .jsonl) for task {task.name}: {describe_folder(folder)}; {hint}")
    return read_table(path)


def from_hub(task: Task, split: str) -> RawTable:
    """A split of the task's data set on the hub. Raises UserError that names the way without the hub."""
    assert task.hub is not None
    where = task.hub.path if task.hub.config is None else f"{task.hub.path}/{task.hub.config}"
    try:
        import datasets

        data = datasets.load_dataset(task.hub.path, task.hub.config, split=split)
        table: pa.Table = data.with_format("arrow")[:]
    # offline, a missing data set, a full disk: `datasets` raises errors of a dozen packages, and the cure is one
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load {where} ({split}) from the Hugging Face hub: {reason}; "
            f"give --data DIR with DIR/{task.name}/{split}.parquet instead"
        ) from error
    return RawTable(table, f"{where} ({split})")
