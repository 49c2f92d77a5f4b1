"""A latency profile of the encoder of tests.tiny_run, made up: nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cofi.machine import machine_info
from cofi.masks import ModelShape, Structure
from cofi.measure.speedup import Ratio
from cofi.models import CompactModel
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
        "gflops": 50.0,
    }
    return Profile(**(values | changes))


def write_profile(folder: Path, **changes: Any) -> Path:
    path = folder / "cpu.json"
    tiny_profile(**changes).save(path)
    return path


def towards(flags: list[str], folder: Path, speedup: float = 3.0, **changes: Any) -> list[str]:
    """Flags of a tiny run, towards a speedup in place of a sparsity."""
    index = flags.index("--sparsity")
    profile = str(write_profile(folder, **changes))
    words = [*flags[:index], *flags[index + 2 :], "--target-speedup", str(speedup), "--device-profile", profile]
    return [*words, "--measure-seconds", "0.2"]


def structure_of(model: CompactModel) -> Structure:
    layout = model.layout
    return Structure(layout.heads, layout.intermediate, model.config.hidden_size, layout.mha, layout.ffn)


def timed_by(law: Callable[[float], float] = lambda ms: ms) -> Callable[..., Ratio]:
    """Stands for `measure_ratio` on a machine where what takes some ms by the tiny profile takes law(ms)."""
    latency = tiny_profile().latency_model()

    def measure(
        dense: CompactModel, compact: CompactModel, lengths: Sequence[int], *, seconds: float, within: float, **_: float
    ) -> Ratio:
        assert list(lengths) == tiny_profile().lengths and seconds > 0
        ms = {
            name: law(latency.of_structure(structure_of(model)))
            for name, model in (("teacher", dense), ("compact", compact))
        }
        return Ratio(ms["teacher"] / ms["compact"], within / 2, 20, ms, 50.0)

    return measure
