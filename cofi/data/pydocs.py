"""Task pydocs: which package of the standard library does a docstring come from?

Real labelled text that every Python carries: the first paragraph, 31 to 300 characters, of each docstring in the
standard library, labelled with its top-level package or module among the 12 that have most of them. Sources are parsed,
never imported or run. The rows are those of the running Python: about 3,100 on 3.11, others in number and label on
other versions and on distributions that leave packages out, so scores compare only on one installation.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from cofi.data.task import Task, TaskDefaults
from cofi.errors import UserError

N_CLASSES = 12
MIN_CHARACTERS, MAX_CHARACTERS = 31, 300
VALIDATION_SHARE = 0.15
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BLANK_LINE = re.compile(r"\n\s*\n")


def source_files(root: Path) -> Iterator[Path]:
    """Every .py file under `root` in a fixed order, without tests and installed packages."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


def first_paragraphs(source: bytes) -> Iterator[str]:
    """First paragraph of each docstring of a module, white space made single blanks. Raises SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are the library's own affair
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            docstring = ast.get_docstring(node) or ""
            yield " ".join(_BLANK_LINE.split(docstring, maxsplit=1)[0].split())


def labelled_paragraphs(root: Path) -> dict[str, str]:
    """{paragraph: package}. A paragraph that occurs in several packages belongs to none and is left out."""
    packages: dict[str, set[str]] = {}
    for path in source_files(root):
        package = path.relative_to(root).parts[0].removesuffix(".py")
        try:
            paragraphs = list(first_paragraphs(path.read_bytes()))
        except SyntaxError:
            continue  # templates with a .py name, for instance; nothing in them is a docstring
        for text in paragraphs:
            if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
                packages.setdefault(text, set()).add(package)
    return {text: found.pop() for text, found in packages.items() if len(found) == 1}


def _most_frequent(labels: dict[str, str]) -> set[str]:
    counts = Counter(labels.values())
    return set(sorted(counts, key=lambda package: (-counts[package], package))[:N_CLASSES])


def build(root: Path) -> dict[str, pa.Table]:
    """{"train", "validation"} with columns text and label from the sources under `root`.

    The hash of a text decides its split and its place, so the first rows of a split are a fair sample of it.
    Raises UserError where `root` holds too little.
    """
    labels = labelled_paragraphs(root)
    kept = _most_frequent(labels)
    rows: dict[str, list[tuple[str, str, str]]] = {"train": [], "validation": []}
    for text, package in labels.items():
        if package in kept:
            digest = hashlib.sha256(text.encode()).hexdigest()
            held_out = int(digest[:16], 16) < VALIDATION_SHARE * 2**64
            rows["validation" if held_out else "train"].append((digest[16:], text, package))
    if len(kept) < 2 or not all(rows.values()):
        raise UserError(f"task pydocs needs the sources of the standard library, found too few docstrings in {root}")
    return {
        split: pa.table({"text": [row[1] for row in ordered], "label": [row[2] for row in ordered]})
        for split, ordered in ((split, sorted(found)) for split, found in rows.items())
    }


@functools.lru_cache(maxsize=1)
def generate() -> dict[str, pa.Table]:
    """The splits of the running Python; about 3 seconds the first time."""
    return build(Path(sysconfig.get_paths()["stdlib"]))


PYDOCS = Task(
    name="pydocs",
    kind="classification",
    text_column="text",
    metrics=("accuracy", "f1_macro"),
    main_metric="accuracy",
    defaults=TaskDefaults(max_length=96),
    generate=generate,
)

SOURCE = f"the docstrings of Python {platform.python_version()}"
