"""Data and settings at the edge of what is allowed: the run must still end with a model."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cofi.train.__main__ import main

SHORT = ["--teacher-epochs", "1", "--distil-epochs", "0", "--finetune-epochs", "0", "--measure-seconds", "0.01"]
ROWS = {"sentence": ["a cat", "the dog", "a cat"], "label": [0, 1, 1]}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (ROWS | {"sentence": ["", "", ""]}, []),
        (ROWS, ["--batch-size", "100000"]),
        (ROWS, ["--max-eval-samples", "1"]),
        ({"sentence": ["a cat"], "label": [1.0]}, ["--task-kind", "regression"]),
        (ROWS, ["--sparsity", "0"]),
    ],
    ids=["no text at all", "batch larger than the data", "one row to evaluate on", "one row", "nothing to prune"],
)
def test_a_run_ends_with_a_model(
    rows: dict[str, list[object]], options: list[str], flags: list[str], tmp_path: Path
) -> None:
    pq.write_table(pa.table(rows), tmp_path / "d.parquet")
    files = [word for split in ("train", "validation") for word in (f"--{split}-file", str(tmp_path / "d.parquet"))]
    assert main([*flags, *SHORT, "--task", "text", *files, *options]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
