"""What several test files of the models start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from .tiny import hf_directory


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A BERT with three labels and names, as a directory."""
    hf_directory(tmp_path, "bert", "classification", id2label={0: "no", 1: "maybe", 2: "yes"})
    return tmp_path
