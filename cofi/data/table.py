"""Reading tables from files. Nothing is interpreted here beyond the file format; every failure names the file."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from cofi.errors import UserError, first_few

_ROW_BYTES = 1 << 24  # a block of a text file must hold a whole row; pyarrow's own 1 MiB is less than some texts have


@dataclass(frozen=True)
class RawTable:
    """A table as it was found; `source` says where, for messages."""

    data: pa.Table
    source: str


@dataclass(frozen=True)
class Table:
    """Checked columns of one split as Python lists of one length; `source` says where they came from."""

    columns: dict[str, list[Any]]
    source: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]

    def select(self, rows: list[int]) -> Table:
        return Table({name: [values[row] for row in rows] for name, values in self.columns.items()}, self.source)


def _read_parquet(path: Path) -> pa.Table:
    return pyarrow.parquet.read_table(path)


def _read_csv(path: Path) -> pa.Table:
    """Every column as text: what a label means is decided later, and a text such as 007 must stay as it is."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(block_size=_ROW_BYTES)
    _check_encoding(path)
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in names})
    return pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _read_json_lines(path: Path) -> pa.Table:
    _check_encoding(path)
    return pyarrow.json.read_json(path, read_options=pyarrow.json.ReadOptions(block_size=_ROW_BYTES))


def _check_encoding(path: Path) -> None:
    """Raise UserError for UTF-16, which Excel and PowerShell write: it would be read as odd rows and columns."""
    with path.open("rb") as file:
        mark = file.read(2)
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError(
            f"{path} must be UTF-8 text, got UTF-16 (its first bytes are {mark.hex(' ')}): save it as UTF-8"
        )


# file name suffix -> (what a message calls it, reader)
FORMATS: dict[str, tuple[str, Callable[[Path], pa.Table]]] = {
    ".parquet": ("Parquet", _read_parquet),
    ".csv": ("CSV", _read_csv),
    ".jsonl": ("JSON lines", _read_json_lines),
    ".json": ("JSON lines", _read_json_lines),
}


def read_table(path: Path) -> RawTable:
    """The table in `path`, by its suffix. Raises UserError for a missing, unreadable or empty one."""
    if not path.exists():
        raise UserError(f"no such file: {path}{_neighbours(path.parent)}")
    if not path.is_file():
        raise UserError(f"not a file: {path}")
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"the name of a data file must end in {', '.join(FORMATS)}, got {path}")
    word, reader = FORMATS[path.suffix.lower()]
    try:
        data = reader(path)
        data.validate(full=True)  # bytes that are no UTF-8, from JSON lines and Parquet
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UserError(f"cannot read {path} as {word}: {_reason(path, error)}") from error
    _check_names(data, path)
    if data.num_rows == 0:
        raise UserError(f"{path} has no rows")
    return RawTable(data, str(path))


def _reason(path: Path, error: Exception) -> str:
    """pyarrow's words, but those about a row that no block holds, which advise what no flag can do."""
    words = " ".join(str(error).split())
    cut = "straddling object" in words or ("Empty CSV file" in words and path.stat().st_size > _ROW_BYTES)
    if cut:
        return f"a row must have at most {_ROW_BYTES} bytes, got a longer one; is a quote or a bracket left open?"
    return words[:300]


def _check_names(data: pa.Table, path: Path) -> None:
    repeated = sorted({name for name in data.column_names if data.column_names.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has more than one column called {', '.join(repeated)}")


def _neighbours(folder: Path) -> str:
    """What a message about a missing file says of its folder."""
    if not folder.is_dir():
        return f" (there is no directory {folder})"
    return f" ({describe_folder(folder)})"


def describe_folder(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return f"{folder} holds: {first_few(names)}" if names else f"{folder} is empty"


def column(raw: RawTable, name: str) -> pa.ChunkedArray:
    """A column without nulls. Raises UserError naming the columns there are, or the first row that is null."""
    if name not in raw.data.column_names:
        raise UserError(f"{raw.source} has no column {name!r} (columns: {', '.join(raw.data.column_names)})")
    values = raw.data.column(name)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise UserError(f"{raw.source}: column {name!r} must not be empty, but row {row} (counted from 0) is null")
    return values


def refuse(bad: pa.ChunkedArray, values: pa.ChunkedArray, raw: RawTable, name: str, rule: str) -> None:
    """Raise UserError for the first row of a column's `values` where `bad` is true."""
    row = pc.index(bad, True).as_py()
    if row >= 0:
        value = values[row].as_py()
        raise UserError(f"{raw.source}: column {name!r} {rule}, got {value!r} in row {row} (counted from 0)")


def text_column(raw: RawTable, name: str) -> list[str]:
    """A column of text as a list; an empty text is allowed. Raises UserError."""
    values = column(raw, name)
    if not is_text(values.type):
        raise UserError(f"{raw.source}: column {name!r} must hold text, got {values.type}")
    return values.to_pylist()


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
