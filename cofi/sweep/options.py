"""`python -m cofi.sweep`: a grid of tasks, sparsities or speedups, seeds and variants; its table and plots."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cofi.cli import Parser
from cofi.data.tasks import TASKS
from cofi.errors import UserError
from cofi.sweep.goal import SPARSITY, SPEEDUP, Goal
from cofi.sweep.plan import DEFAULT_TEACHER_SEED, Grid, variant_settings
from cofi.sweep.variants import GROUPS, VARIANTS
from cofi.train.arguments import parse_given
from cofi.train.ranges import flag

# settings that the sweep gives every run: what to do instead
OWN = {
    "task": "use --tasks",
    "sparsity": "use --sparsities",
    "target_speedup": "use --target-speedups",
    "device_profile": "give it to the sweep itself, for all of --target-speedups",
    "seed": "use --seeds, --teacher-seed",
    "output": "all runs lie in the sweep's --output",
    "teacher": "use --teachers",
    "teacher_only": "teachers are made when their first point comes",
    "resume": "a sweep always goes on where it stopped",
    "overwrite": "name another --output",
}
EPILOG = (
    "Every other flag of cofi.train may be given too and holds for all runs (python -m cofi.train --help). Variants: "
    + "; ".join(f"{name}: {variant.meaning}" for name, variant in VARIANTS.items())
    + "; all of a kind: "
    + "; ".join(f"{name} ({', '.join(members)})" for name, members in GROUPS.items())
    + ". Without --tasks nothing is trained: the points that are there are measured (--measure), listed and drawn."
)
SPARSITIES = ("0.6", "0.8", "0.9", "0.95")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Options:
    """A command, parsed and checked. `grid` is None where nothing is to be trained."""

    output: Path
    grid: Grid | None
    settings: dict[str, Any]
    measure: bool
    retime: bool
    results: Path | None
    dry_run: bool
    keep_checkpoints: bool
    command: str


def build_parser() -> Parser:
    parser = Parser("python -m cofi.sweep", __doc__, EPILOG)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory of the sweep")
    _add_grid(parser)
    _add_work(parser)
    return parser


def _add_grid(parser: Parser) -> None:
    """What is run."""
    parser.add_argument(
        "--tasks", nargs="+", action="extend", metavar="T", help=f"{', '.join(TASKS)}, or a folder of --data"
    )
    _add_goals(parser)
    parser.add_argument("--seeds", nargs="+", metavar="N", default=["1"], help="of the points; default: 1")
    _add_variants(parser)
    parser.add_argument(
        "--teachers",
        type=Path,
        metavar="DIR",
        help="where teachers are and new ones are put, so that sweeps can share them; default: teachers/ of --output",
    )
    parser.add_argument(
        "--teacher-seed",
        metavar="N|each",
        default=str(DEFAULT_TEACHER_SEED),
        help="seed of the one teacher of each task; each: a teacher for every seed; default: %(default)s",
    )


def _add_goals(parser: Parser) -> None:
    """What runs are asked for."""
    parser.add_argument(
        "--sparsities",
        nargs="+",
        metavar="X",
        default=[],
        help=f"default: {' '.join(SPARSITIES)}, or none with --target-speedups",
    )
    parser.add_argument(
        "--target-speedups",
        nargs="+",
        metavar="X",
        default=[],
        help="runs that are asked for a speedup instead, by --device-profile; each measures and corrects it, for "
        "--measure-seconds, before it fine-tunes, while the machine is in the state that the profile was measured in",
    )
    parser.add_argument(
        "--device-profile", metavar="FILE", help="of this machine, by cofi.profile; for --target-speedups"
    )


def _add_variants(parser: Parser) -> None:
    """How they are pruned, beside the recipe."""
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=[],
        help="which variants to run; default: those of --variant, else 'default'",
    )
    parser.add_argument(
        "--variant",
        action="append",
        metavar="NAME=FLAGS",
        default=[],
        help="a variant of your own, such as slow='--prune-epochs 12'; may be repeated",
    )
    parser.add_argument(
        "--task-flags",
        action="append",
        metavar="TASK=FLAGS",
        default=[],
        help="flags for the runs of one task and its teacher; may be repeated",
    )


def _add_work(parser: Parser) -> None:
    """What is done with it."""
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what is done of it; run nothing")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="at the end, time every point that has not been timed, or beside other work only: batch 1 and 32, real "
        "lengths; it waits for the moments in which nothing else uses these cores",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="write the table, the plots and sweep.json there as well, without paths of this machine; points that are "
        "there already stay, so that several machines can fill one folder",
    )
    parser.add_argument(
        "--retime",
        action="store_true",
        help="with --measure and --results: the points there that another machine has timed are timed on this one as "
        "well, by models of their structure with new weights, so that all speeds compare; nothing has to be trained: "
        "of a task without a finished point in --output, --model stands for the teacher, with --data for the lengths",
    )
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="of finished points; by default only model, log, result and report stay",
    )


def parse(argv: Sequence[str] | None = None) -> Options:
    """Raises UserError naming the flag, the rule and the value."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    options, rest = parser.parse_known(words)
    settings = _settings(rest, parser)
    grid = None if options.tasks is None else _grid(options, settings)
    if options.retime and not (options.measure and options.results):
        raise UserError("--retime needs --measure and --results: it times the points that are in --results already")
    if grid is None and not options.retime and not (options.output / "points").is_dir():
        raise UserError(f"--tasks is needed: --output {options.output} holds no sweep yet")
    return Options(
        options.output, grid, settings, options.measure, options.retime, options.results, options.dry_run,
        options.keep_checkpoints, shlex.join(["python", "-m", "cofi.sweep", *words]),
    )  # fmt: skip


def _grid(options: argparse.Namespace, settings: dict[str, Any]) -> Grid:
    tasks = tuple(_named("--tasks", name) for name in _items(options.tasks))
    task_settings = {
        name: _flags("--task-flags", name, text) for name, text in _pairs("--task-flags", options.task_flags)
    }
    strangers = [name for name in task_settings if name not in tasks]
    if strangers:
        raise UserError(f"--task-flags must be for one of --tasks {' '.join(tasks)}, got {strangers[0]!r}")
    own = {name: _flags("--variant", name, text) for name, text in _pairs("--variant", options.variant)}
    seeds = tuple(_number("--seeds", text, int) for text in _items(options.seeds))
    teacher_seed = None if options.teacher_seed == "each" else _number("--teacher-seed", options.teacher_seed, int)
    grid = Grid(
        tasks=tasks,
        goals=_goals(options),
        seeds=seeds,
        variants=variant_settings(_items(options.variants), own),
        teachers=options.teachers or options.output / "teachers",
        settings=settings,
        task_settings=task_settings,
        teacher_seed=teacher_seed,
        profile=options.device_profile,
    )
    _check_distinct("--tasks", grid.tasks)
    _check_distinct("--seeds", grid.seeds)
    grid.check()
    return grid


def _goals(options: argparse.Namespace) -> tuple[Goal, ...]:
    speedups = _distinct_numbers("--target-speedups", options.target_speedups)
    if bool(speedups) != (options.device_profile is not None):
        raise UserError("--target-speedups and --device-profile must be given together")
    sparsities = _distinct_numbers("--sparsities", options.sparsities or ([] if speedups else SPARSITIES))
    return tuple(Goal(SPARSITY, value) for value in sparsities) + tuple(Goal(SPEEDUP, value) for value in speedups)


def _distinct_numbers(option: str, words: Sequence[str]) -> list[float]:
    values = [_number(option, text, float) for text in _items(words)]
    _check_distinct(option, values)
    return values


def _items(words: Sequence[str]) -> list[str]:
    """Words with commas or blanks between them."""
    return [item for word in words for item in word.split(",") if item]


def _named(option: str, name: str) -> str:
    """A name that becomes part of a directory's."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{option} must be names of letters, digits, '-', '_' and '.', got {name!r}")
    return name


def _pairs(option: str, words: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, _) in zip(words, pairs, strict=True):
        if not equals:
            raise UserError(f"{option} must be NAME='FLAGS', got {word!r}")
        _named(option, name)
    _check_distinct(option, [name for name, _, _ in pairs])
    return [(name, text) for name, _, text in pairs]


def _flags(option: str, name: str, text: str) -> dict[str, Any]:
    """Settings of cofi.train from the text of a variant."""
    try:
        given = parse_given(shlex.split(text))
    except (UserError, ValueError) as error:
        raise UserError(f"{option} {name}: {error}") from error
    _check_own(f"{option} {name}: ", given)
    return given


def _settings(rest: Sequence[str], parser: Parser) -> dict[str, Any]:
    try:
        given = parse_given(rest)
    except UserError as error:
        own = " ".join(sorted(name for action in parser._actions for name in action.option_strings if name != "-h"))
        raise UserError(f"neither cofi.sweep ({own}) nor cofi.train takes this: {error}") from error
    _check_own("", given)
    return given


def _check_own(where: str, given: dict[str, Any]) -> None:
    for name in given:
        if name in OWN:
            raise UserError(f"{where}{flag(name)} is set for each run by the sweep: {OWN[name]}")


def _number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        words = {int: "whole numbers", float: "numbers"}
        raise UserError(f"{option} must be {words[kind]}, got {text!r}") from None  # type: ignore[index]


def _check_distinct(option: str, values: Sequence[Any]) -> None:
    twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
    if twice:
        raise UserError(f"{option} must name each only once, got {twice[0]} twice")
