"""Task pydocs on a made library, and on the one of the Python that runs the tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from cofi.data import load_splits, pydocs
from cofi.errors import UserError

LONG = "Return the number of things there are."


def make_library(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def function(doc: str, name: str = "f") -> str:
    return f'def {name}():\n    """{doc}"""\n'


def test_paragraphs_of_every_kind_of_definition() -> None:
    source = b'''
"""Module text that\n   goes on.\n\nSecond paragraph."""
class C:
    """Class
    text."""
    async def f(self):
        "Async text."
        def inner(): "Inner text."
x = """No docstring."""
def bare(): pass
def spaced():
    """First.
      \t
    Second."""
'''
    found = set(pydocs.first_paragraphs(source))
    assert found == {"Module text that goes on.", "Class text.", "Async text.", "Inner text.", "First.", ""}


def test_what_is_left_out(tmp_path: Path) -> None:
    root = make_library(
        tmp_path,
        {
            "kept/__init__.py": function(LONG),
            "kept/deep/module.py": function(LONG + " Deep."),
            "single.py": function(LONG + " Single."),
            "kept/tests/test_x.py": function(LONG + " Tested."),
            "test/x.py": function(LONG + " Tested too."),
            "idlelib/idle_test/x.py": function(LONG + " Tested thrice."),
            "site-packages/x.py": function(LONG + " Installed."),
            "kept/template.py": "def {{ name }}(:",
            "kept/data.txt": LONG,
            "kept/short.py": function("x" * 30) + function("y" * 31, "g") + function("z" * 300, "h"),
            "kept/long.py": function("x" * 301),
            "one.py": function(LONG + " Shared."),
            "two.py": function(LONG + " Shared."),
            "kept/twice.py": function(LONG),
        },
    )
    assert pydocs.labelled_paragraphs(root) == {
        LONG: "kept",
        LONG + " Deep.": "kept",
        LONG + " Single.": "single",
        "y" * 31: "kept",
        "z" * 300: "kept",
    }


def test_twelve_most_frequent_packages(tmp_path: Path) -> None:
    files = {
        f"p{package:02}.py": "".join(function(f"{LONG} {package} {i}", f"f{i}") for i in range(40 - package))
        for package in range(14)
    }
    tables = pydocs.build(make_library(tmp_path, files))
    labels = set(tables["train"]["label"].to_pylist()) | set(tables["validation"]["label"].to_pylist())
    assert labels == {f"p{package:02}" for package in range(12)}


def test_split_of_a_text_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    def library(name: str, n: int) -> dict[str, pa.Table]:
        files = {f"{p}.py": "".join(function(f"{LONG} {p} {i}", f"f{i}") for i in range(n)) for p in "ab"}
        return pydocs.build(make_library(tmp_path / name, files))

    small, large = library("small", 100), library("large", 150)
    for split in ("train", "validation"):
        texts = large[split]["text"].to_pylist()
        assert [text for text in texts if text in set(small[split]["text"].to_pylist())] == small[split][
            "text"
        ].to_pylist()


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pydocs needs the sources of the standard library"):
        pydocs.build(tmp_path)


def test_the_library_of_this_python() -> None:
    splits = load_splits("pydocs")
    train, validation = splits.train["text"], splits.validation["text"]
    assert len(splits.task.label_names or ()) == 12
    assert len(train) + len(validation) > 1500  # 3,191 with Python 3.11.7; fewer where packages are left out
    assert 0.12 < len(validation) / (len(train) + len(validation)) < 0.18
    assert len({*train, *validation}) == len(train) + len(validation)
    assert all(31 <= len(text) <= 300 and text == " ".join(text.split()) for text in train + validation)
    assert set(splits.train["label"]) == set(range(12)) == set(splits.validation["label"])
    first = splits.train["label"][:200]
    assert len(set(first)) > 8, "the first rows must be a sample of all classes"
