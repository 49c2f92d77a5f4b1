"""What a directory given to the command holds: a run, a CompactModel, a Hugging Face or an official CoFi model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cofi.errors import UserError
from cofi.models import CompactModel, load_model, locate
from cofi.prune import is_official, load_official


@dataclass(frozen=True)
class Source:
    """A loaded model and the directory it came from, which has its tokenizer. kind: what it was, in words."""

    model: CompactModel
    directory: Path
    kind: str


def read_source(given: str | Path) -> Source:
    """Load the model that `given` holds. Raises UserError where there is none or it cannot be read."""
    directory = find_model(given)
    if is_official(directory):
        return Source(load_official(directory), directory, "official CoFi checkpoint")
    loaded = load_model(directory)
    saved_as = loaded.model.config.source_model_type or "compact"
    return Source(loaded.model, directory, f"{saved_as} model")


def find_model(given: str | Path) -> Path:
    """The directory of the model: `given`, or its model/ where it is that of a run. Raises UserError without one."""
    given = Path(given)
    if not given.is_dir():
        raise UserError(f"{given} is not a directory")
    return locate.find_model(given)
