"""The file of a latency profile: written by `python -m cofi.profile`, validated when it is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cofi.errors import UserError
from cofi.files import read_json, write_atomically
from cofi.masks import LatencyModel, ModelShape
from cofi.masks.interpolation import curve, surface
from cofi.models.config_values import INFERENCE_PRECISIONS

FORMAT = 2
FOLDER = Path("profiles")  # where a name without a path is looked for
MAX_BYTES = 1 << 20
_SIZES = {
    "n_layers": "layers",
    "n_heads": "heads a layer",
    "head_dim": "dims a head",
    "d_hidden": "hidden dims",
    "d_int": "intermediate dims",
}


@dataclass(frozen=True)
class Table:
    """ms (units, hidden) of one sublayer."""

    units: list[int]
    hidden: list[int]
    ms: list[list[float]]


@dataclass(frozen=True)
class Tables:
    """Milliseconds: sublayers, the fixed part over the hidden dims of the tables, whole models over sums of parts."""

    attention: Table
    ffn: Table
    fixed_ms: list[float]
    parts_ms: list[float]
    whole_ms: list[float]

    def latency_model(self, shape: ModelShape) -> LatencyModel:
        return LatencyModel(
            shape,
            surface(self.attention.units, self.attention.hidden, self.attention.ms),
            surface(self.ffn.units, self.ffn.hidden, self.ffn.ms),
            curve(self.attention.hidden, self.fixed_ms),
            curve(self.parts_ms, self.whole_ms),
        )


@dataclass(frozen=True)
class Check:
    """A structure that no table was made from: what the tables say of it, and what it took."""

    structure: dict[str, Any]
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Profile:
    """Latencies of one deployment.

    source: the model's name; lengths: tokens of each sequence of the batch; precision: of the products; threads: of the
    CPU; machine: as `machine_info`, with `device`; versions: of the packages; spread: of repeated measurements; gflops:
    what the machine gave `cofi.measure.rate.Gauge` meanwhile
    """

    source: str
    shape: ModelShape
    lengths: list[int]
    precision: str
    threads: int
    machine: dict[str, Any]
    versions: dict[str, str]
    tables: Tables
    checks: list[Check]
    spread: float
    gflops: float

    @property
    def on_cpu(self) -> bool:
        return bool(self.machine["device"] == "cpu")

    def latency_model(self) -> LatencyModel:
        return self.tables.latency_model(self.shape)

    def check_model(self, shape: ModelShape, source: str, where: str) -> None:
        """Raise UserError naming `where` unless it is a profile of encoders of `shape`."""
        for name, words in _SIZES.items():
            own, other = getattr(self.shape, name), getattr(shape, name)
            if own != other:
                raise UserError(
                    f"{where} was measured for {own} {words} ({self.source}), {source} has {other}: measure one with "
                    f"python -m cofi.profile {source}"
                )

    def check_threads(self, threads: int, where: str) -> None:
        """Raise UserError naming `where` unless it was measured with as many CPU threads."""
        if self.on_cpu and self.threads != threads:
            raise UserError(
                f"{where} was measured with --threads {self.threads}, this run has {threads}: give --threads "
                f"{self.threads}, or measure again with python -m cofi.profile --threads {threads}"
            )

    def save(self, path: Path) -> None:
        content = {"format": FORMAT, **asdict(self)}
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def find_profile(name: str) -> Path:
    """The file that --device-profile names: a path, or a name in profiles/. Raises UserError where there is none."""
    for path in (Path(name), FOLDER / f"{name}.json"):
        if path.is_file():
            return path
    raise UserError(
        f"--device-profile {name}: neither {name} nor {FOLDER / f'{name}.json'} is there: measure one with "
        "python -m cofi.profile"
    )


def read_profile(path: Path) -> Profile:
    """Read and check a profile. Raises UserError naming the file, the field and the rule."""
    values = read_json(path, MAX_BYTES)
    if values.get("format") != FORMAT:
        raise UserError(
            f"{path} is no latency profile of this version (format {FORMAT}, got {values.get('format')!r}): "
            "measure one with python -m cofi.profile"
        )
    try:
        return _parse(values)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is no latency profile: {reason}") from error


def _parse(values: dict[str, Any]) -> Profile:
    attention, ffn = (_table(name, values["tables"][name]) for name in ("attention", "ffn"))
    shape = ModelShape(**{field.name: values["shape"][field.name] for field in fields(ModelShape)})
    lists = {name: _floats(name, values["tables"][name]) for name in ("fixed_ms", "parts_ms", "whole_ms")}
    tables = Tables(attention, ffn, **lists)
    _check_ends(tables, shape)
    profile = Profile(
        source=str(values["source"]),
        shape=shape,
        lengths=_counts("lengths", values["lengths"], least=1),
        precision=values["precision"],
        threads=_counts("threads", [values["threads"]], least=1)[0],
        machine={"device": values["machine"]["device"], **values["machine"]},
        versions=dict(values["versions"]),
        tables=tables,
        checks=[
            Check(dict(c["structure"]), *_floats("checks", [c["predicted_ms"], c["measured_ms"]]))
            for c in values["checks"]
        ],
        spread=_floats("spread", [values["spread"]])[0],
        gflops=_floats("gflops", [values["gflops"]])[0],
    )
    if profile.precision not in INFERENCE_PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(INFERENCE_PRECISIONS)}, got {profile.precision!r}")
    if profile.gflops == 0:
        raise ValueError("gflops must be above 0")
    if not float(profile.latency_model()({})) > 0:  # which also refuses knots that do not rise
        raise ValueError("the dense model must take some time")
    return profile


def _check_ends(tables: Tables, shape: ModelShape) -> None:
    """Knots must reach from no unit to all of them: beyond its ends a table knows nothing."""
    for name, table, size in (("attention", tables.attention, shape.n_heads), ("ffn", tables.ffn, shape.d_int)):
        if not table.units or (table.units[0], table.units[-1]) != (0, size) or table.hidden[-1:] != [shape.d_hidden]:
            raise ValueError(f"{name} must reach from 0 to {size} units and to {shape.d_hidden} hidden dims")
    if tables.attention.hidden != tables.ffn.hidden:
        raise ValueError("attention and ffn must have the same hidden dims")


def _table(name: str, values: dict[str, Any]) -> Table:
    units, hidden = (_counts(f"{name}.{key}", values[key], least=0) for key in ("units", "hidden"))
    if not isinstance(values["ms"], list):
        raise ValueError(f"{name}.ms must be a list of rows, got {values['ms']!r:.80}")
    return Table(units, hidden, [_floats(f"{name}.ms", row) for row in values["ms"]])


def _counts(name: str, values: Any, *, least: int) -> list[int]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name} must be a list of whole numbers, got {values!r:.80}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
            raise ValueError(f"{name} must hold whole numbers from {least}, got {value!r:.80}")
    return values


def _floats(name: str, values: Sequence[Any]) -> list[float]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name} must be a list of numbers, got {values!r:.80}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise ValueError(f"{name} must hold numbers from 0 to 1e9, got {value!r:.80}")
    return [float(value) for value in values]
