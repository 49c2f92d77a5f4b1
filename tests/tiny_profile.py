"""A latency profile of the encoder of tests.tiny_run, made up: nothing is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cofi.bench.timing import machine_info
from cofi.masks import ModelShape
from cofi.profile.profile import Check, Profile, Table, Tables

SHAPE = ModelShape(n_layers=2, n_heads=4, head_dim=8, d_hidden=32, d_int=48)


def tiny_profile(**changes: Any) -> Profile:
    """0.1 ms a head and 0.01 ms an intermediate dim at full width, half of it whatever the hidden size is."""
    hidden = [1, 16, 32]
    width = [0.5 + 0.5 * e / 32 for e in hidden]
    heads, dims = [0, 1, 4], [0, 8, 24, 48]
    tables = Tables(
        attention=Table(heads, hidden, [[0.01 + 0.1 * n * w for w in width] for n in heads]),
        ffn=Table(dims, hidden, [[0.01 + 0.01 * n * w for w in width] for n in dims]),
        fixed_ms=[0.02, 0.025, 0.03],
        parts_ms=[0.0, 0.5, 5.0],
        whole_ms=[0.0, 0.5, 6.0],
    )
    values: dict[str, Any] = {
        "source": "tiny",
        "shape": SHAPE,
        "lengths": [4, 9],
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "machine": machine_info(),
        "versions": {"torch": torch.__version__},
        "tables": tables,
        "checks": [Check({"heads": [1, 0], "intermediate": [9, 0], "hidden": 30}, 0.5, 0.51)],
        "spread": 0.05,
    }
    return Profile(**(values | changes))


def write_profile(folder: Path, **changes: Any) -> Path:
    path = folder / "cpu.json"
    tiny_profile(**changes).save(path)
    return path
