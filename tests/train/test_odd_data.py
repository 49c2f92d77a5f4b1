"""Data and settings at the edge of what is allowed: the run must still end with a model."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cofi.data import load_tokenizer
from cofi.errors import UserError
from cofi.models import load_model, save_model
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


def test_a_head_of_other_classes_is_trained_anew(
    flags: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many classes are not the same classes: what a sentiment model says would be taken for a teacher's answers."""
    model = load_model(checkpoint, head="classification", num_labels=2, label_names=("spam", "ham")).model
    model.config.id2label = {0: "spam", 1: "ham"}
    save_model(model, load_tokenizer(checkpoint), tmp_path / "other")
    pq.write_table(pa.table({"sentence": ["a cat", "the dog"], "label": ["cat", "dog"]}), tmp_path / "d.parquet")
    files = [word for split in ("train", "validation") for word in (f"--{split}-file", str(tmp_path / "d.parquet"))]
    rest = [*SHORT, "--task", "text", *files]
    assert main([*flags, *rest, "--model", str(tmp_path / "other")]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "classification of 2 (cat, dog)" in shown
    assert "other has no head of this task yet: it is fine-tuned first" in shown
    with pytest.raises(UserError, match=r"--teacher .*other has no head .* for task text \(classes cat, dog\)"):
        main([*flags, *rest, "--overwrite", "--teacher", str(tmp_path / "other")])
