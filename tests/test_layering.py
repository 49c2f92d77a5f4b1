"""Imports go one way. A row may import the rows below it, never its own other members or anything above."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Top to bottom. Commands build on one another too: a comparison reads sweeps; a sweep makes runs of training and an
# evaluation reads one; training reads profiles; a benchmark times a profile's encoders and what is exported.
COMMANDS = (
    ("cofi.compare",),
    ("cofi.sweep", "cofi.evaluate"),
    ("cofi.train", "cofi.bench"),
    ("cofi.profile", "cofi.export"),
)
ROWS = (
    *COMMANDS,
    ("cofi.report",),
    ("cofi.measure", "cofi.distill", "cofi.prune", "cofi.data", "cofi.baselines"),
    ("cofi.models",),
    ("cofi.masks",),
    ("cofi_kernels",),
)
SHARED = ("cofi.errors", "cofi.files", "cofi.machine", "cofi.memory")  # for every part of cofi; know the kernels alone
STARTUP = "cofi.startup"  # for cofi itself and its command line
COMMAND_LINE = "cofi.cli"  # for the commands and every other __main__.py
TENSORS_ONLY = ("cofi.masks", "cofi_kernels")  # no Hugging Face: usable without it
HUGGING_FACE = ("transformers", "datasets", "tokenizers", "huggingface_hub")
PARTS = [part for row in ROWS for part in row]


def row_of(part: str) -> int:
    return next(index for index, row in enumerate(ROWS) if part in row)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def files_of(part: str) -> list[Path]:
    path = ROOT / part.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imported_modules(source: str, package: str) -> set[str]:
    """Modules that `source` in `package` imports. `from a import b` counts as both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def may_import(part: str, module: str, *, is_main: bool = False) -> bool:
    """Whether a file of `part` may import `module`, as far as our own packages go; `is_main`: it is a __main__.py."""
    if is_within(module, part) or module == "cofi":  # `from cofi import x` is judged by cofi.x
        return True
    if part == "cofi_kernels":
        return not is_within(module, "cofi")
    if any(is_within(module, shared) for shared in SHARED) or (is_main and is_within(module, COMMAND_LINE)):
        return True
    target = next((other for other in PARTS if is_within(module, other)), None)
    if target is not None:
        return row_of(target) > row_of(part)
    if row_of(part) < len(COMMANDS) and is_within(module, COMMAND_LINE):
        return True
    return not any(is_within(module, top) for top in ("cofi", "bench", "tests"))


@pytest.mark.parametrize("part", PARTS)
def test_part_imports_only_rows_below(part: str) -> None:
    for path in files_of(part):
        package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
        is_main = path.name == "__main__.py"
        bad = {m for m in imported_modules(path.read_text(), package) if not may_import(part, m, is_main=is_main)}
        assert not bad, f"{path.relative_to(ROOT)} imports {sorted(bad)}"


@pytest.mark.parametrize("module", SHARED)
def test_shared_modules_import_one_another_and_the_kernels(module: str) -> None:
    (path,) = files_of(module)
    own = {m for m in imported_modules(path.read_text(), "cofi") if is_within(m, "cofi")}
    bad = {m for m in own if not any(is_within(m, shared) for shared in SHARED)}
    assert not bad, f"{path.relative_to(ROOT)} imports {sorted(bad)}"


@pytest.mark.parametrize("part", (*TENSORS_ONLY, *SHARED))
def test_tensor_packages_do_without_hugging_face(part: str) -> None:
    for path in files_of(part):
        modules = imported_modules(path.read_text(), part)
        bad = {m for m in modules if any(is_within(m, name) for name in HUGGING_FACE)}
        assert not bad, f"{path.relative_to(ROOT)} imports {sorted(bad)}"


def test_every_part_of_cofi_has_a_row() -> None:
    entries = [path for path in (ROOT / "cofi").iterdir() if path.suffix == ".py" or any(path.rglob("*.py"))]
    found = {f"cofi.{path.stem}" for path in entries if path.stem != "__init__"}
    assert found <= {*PARTS, *SHARED, COMMAND_LINE, STARTUP}, "give the new part a row in ROWS"


def test_csrc_knows_no_torch() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert sources
    for path in sources:
        bad = re.findall(r"#\s*include\s*[<\"](?:torch|ATen|c10|caffe2)/.*", path.read_text())
        assert not bad, f"{path.relative_to(ROOT)}: {bad}"


@pytest.mark.parametrize(
    ("part", "module", "allowed"),
    [
        ("cofi.models", "cofi.masks.gates", True),
        ("cofi.models", "cofi.errors", True),
        ("cofi.models", "cofi.prune", False),
        ("cofi.distill", "cofi.data", False),
        ("cofi.data", "cofi.train.loop", False),
        ("cofi.data", "cofi.cli", False),
        ("cofi.report", "cofi.prune", True),
        ("cofi.report", "cofi.train", False),
        ("cofi.report", "cofi.measure.timing", True),
        ("cofi.measure", "cofi.bench.subjects", False),
        ("cofi.train", "cofi.profile.profile", True),
        ("cofi.train", "cofi.bench.subjects", False),
        ("cofi.train", "cofi.cli", True),
        ("cofi.train", "bench.rivals", False),
        ("cofi.profile", "cofi.train.result", False),
        ("cofi.evaluate", "cofi.train.rundir", True),
        ("cofi.sweep", "cofi.compare", False),
        ("cofi.masks", "cofi.machine", True),
        ("cofi_kernels", "cofi.errors", False),
        ("cofi_kernels", "torch", True),
        ("cofi.masks", "cofi.CompactModel", False),
    ],
)
def test_rule_itself(part: str, module: str, allowed: bool) -> None:
    assert may_import(part, module) is allowed


def test_command_line_is_for_main_files() -> None:
    assert may_import("cofi.report", "cofi.cli", is_main=True)
    assert not may_import("cofi.report", "cofi.cli")


def test_relative_imports_are_resolved() -> None:
    assert imported_modules("from ..prune import fold", "cofi.models") == {"cofi.prune", "cofi.prune.fold"}
    assert imported_modules("from . import gates", "cofi.masks") == {"cofi.masks", "cofi.masks.gates"}
