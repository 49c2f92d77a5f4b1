"""What a figure needs beside it: a fair clock, the machine it was taken on and how fast that machine was just then."""

from __future__ import annotations

import functools
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cofi.machine import machine_info

ROOT = Path(__file__).resolve().parents[1]
ROUND_S = 2e-3  # one round of a contestant lasts about this long, so that the clock's own cost does not show


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def drain() -> None:
    """Wait for the GPU: what was launched belongs to the time of who launched it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Wall time of one of `repeats` calls in a row."""
    drain()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    drain()
    return (time.perf_counter() - start) / repeats


def repeats_for(run: Callable[[], Any]) -> int:
    """How many calls fill a round. The first two calls, which compile and fill caches, are not counted."""
    seconds(run, 2)
    return max(1, round(ROUND_S / max(seconds(run, 1), 1e-7)))


@functools.cache
def copy_bytes_per_s() -> float:
    """Bytes read and written in a second by a copy that no cache holds: what memory floors are computed from."""
    source = torch.zeros((1 << 30 if device() == "cuda" else 1 << 27) // 4, device=device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), 1) for _ in range(7))


@functools.cache
def gemm_flops_per_s() -> float:
    """fp32 operations a second of PyTorch's own matrix product, 1024 cubed: the yardstick of a noisy machine."""
    a = torch.randn(1024, 1024, device=device())
    return 2 * 1024**3 / min(seconds(lambda: a @ a, 1) for _ in range(7))


def machine() -> dict[str, Any]:
    """The fields of a result file that say where and on what it was measured."""
    return {
        **machine_info(device()),
        "copy_gb_per_s": round(copy_bytes_per_s() / 1e9, 1),
        "gemm_gflop_per_s": round(gemm_flops_per_s() / 1e9, 1),
    }


def spread(times: list[float]) -> list[float]:
    """The quartiles around the median; of a single time that time."""
    if len(times) == 1:
        return times * 2
    low, _, high = statistics.quantiles(times, n=4)
    return [low, high]


def folder(root: Path, of: dict[str, Any]) -> Path:
    """Where results of a machine lie: a folder named after its GPU, or its processor where it has none."""
    name = of["cpu"] if of["device"] == "cpu" else of["device"]
    return root / re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")


def write_rows(root: Path, name: str, rows: list[dict[str, Any]], order: Sequence[str] = ()) -> dict[str, Any]:
    """Write result file `name` of this machine: these rows, and those of other cases that an earlier call wrote.

    order: of the cases, as they come when there is none
    """
    result: dict[str, Any] = {"machine": machine(), "rows": rows}
    file = folder(root, result["machine"]) / name
    measured = {row["case"] for row in rows}
    kept = json.loads(file.read_text())["rows"] if file.is_file() else []
    result["rows"] = [row for row in kept if row["case"] not in measured] + rows
    if order:
        result["rows"].sort(key=lambda row: order.index(row["case"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    return result
