"""`python -m cofi.train`: prune a model from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from cofi.cli import EXIT_SIGNAL
from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.report import summary_table, write_report
from cofi.train.arguments import check_resumed, parse_given, resolve
from cofi.train.config import TrainConfig
from cofi.train.distributed import World, launched_world
from cofi.train.idle import idle_flags
from cofi.train.interrupt import Interrupted
from cofi.train.pipeline import train
from cofi.train.rundir import RunDirectory


def main(argv: Sequence[str] | None = None) -> int:
    with launched_world() as world:
        return _run(argv, world)


def _run(argv: Sequence[str] | None, world: World) -> int:
    given = parse_given(argv)
    config, run = world.decide(lambda: _open_run(given))
    disable_progress_bar()  # transformers' own, for writing one file
    try:
        result = train(config, run, world)
    except Interrupted as stop:
        if world.is_main:
            how = "python" if world.size == 1 else "torchrun ..."
            sys.stderr.write(
                f"stopped by {stop}; saved. Continue with: {how} -m cofi.train --output {run.root} --resume\n"
            )
        return EXIT_SIGNAL + stop.signum
    return 0 if result is None else _show(run, result, kept=run.teacher if config.teacher_only else run.model)


def _show(run: RunDirectory, result: dict[str, Any], *, kept: Path) -> int:
    report = write_report(run.root)
    console = Console()
    console.print(summary_table(result))
    console.print(
        f"model:  {kept}\nreport: {report}\nresult: {run.result}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return 0


def _open_run(given: dict[str, object]) -> tuple[TrainConfig, RunDirectory]:
    if given.get("resume"):
        if "output" not in given:
            raise UserError("--resume needs --output, the directory of the run to continue")
        run = RunDirectory(str(given["output"]))
        stored = run.read_config()
        check_resumed(stored, given)
        if run.result.exists():
            raise UserError(f"the run in {run.root} is finished: its result is in {run.result}")
        return TrainConfig(**{**stored.to_dict(), **given}), run
    config = resolve(given)
    for sentence in idle_flags(given, config):
        sys.stderr.write(f"note: {sentence}\n")
    run = RunDirectory(config.output or f"runs/{config.task}")
    run.check_free(config)
    return config, run


if __name__ == "__main__":
    sys.exit(run_command(main))
