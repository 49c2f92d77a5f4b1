"""The command lines that the documents show are ones that the commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cofi.bench import __main__ as bench
from cofi.compare import __main__ as compare
from cofi.evaluate import __main__ as evaluate
from cofi.export import __main__ as export
from cofi.profile import __main__ as profile
from cofi.report import __main__ as report
from cofi.sweep import options as sweep
from cofi.train.arguments import build_parser as train_parser
from cofi.train.arguments import parse_given, resolve

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")))
PARSERS = {
    "train": lambda words: resolve(parse_given(words)),
    "evaluate": lambda words: evaluate.build_parser().parse(words),
    "bench": lambda words: bench.parse(words),
    "export": lambda words: export.build_parser().parse(words),
    "report": lambda words: report.build_parser().parse(words),
    "profile": lambda words: profile.build_parser().parse(words),
    "sweep": lambda words: sweep.parse(words if "--tasks" in words else [*words, "--tasks", "rte"]),
    "compare": lambda words: compare.build_parser().parse(words),
}


def shown_commands() -> list[str]:
    text = "".join((ROOT / name).read_text() for name in TEXTS).replace("\\\n", " ")
    return re.findall(r"python3? -m cofi\.[^`\n]*", text)


def test_every_command_is_shown() -> None:
    assert {command.split()[2] for command in shown_commands()} >= {f"cofi.{name}" for name in PARSERS}


@pytest.mark.parametrize("command", shown_commands())
def test_a_command_that_is_shown_parses(command: str) -> None:
    words = shlex.split(command, comments=True)
    parse = PARSERS[words[2].removeprefix("cofi.")]
    if "--help" in words:
        with pytest.raises(SystemExit) as stop:
            parse(words[3:])
        assert stop.value.code == 0
    else:
        parse(words[3:])


def test_flags_named_in_passing_exist() -> None:
    """Of any command: `--output DIR --resume`, `--recipe official`, ..."""
    prose = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    named = {flag for code in re.findall(r"`([^`]+)`", prose) for flag in re.findall(r"--[a-z-]+", code)}
    parsers = (evaluate.build_parser(), bench.build_parser(), export.build_parser(), train_parser())
    known = {name for parser in parsers for action in parser._actions for name in action.option_strings}
    assert named and named <= known
