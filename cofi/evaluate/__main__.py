"""`python -m cofi.evaluate DIR --task T`: the metrics of a saved model, as a table, with --json as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from cofi.cli import Parser, positive, write_json
from cofi.cli import run as run_command
from cofi.data.kinds import ASKED_KINDS, AUTO
from cofi.data.tasks import TASKS
from cofi.evaluate.judge import evaluate
from cofi.memory import keep_freed_memory
from cofi.models.config_values import INFERENCE_PRECISIONS


def build_parser() -> Parser:
    parser = Parser(
        "python -m cofi.evaluate",
        __doc__,
        epilog="A run's model is evaluated as the run did it: rows, columns and lengths are those of its config.yaml "
        "where no flag names others and --task is that of the run. A model of sentence embeddings is compared with "
        "--reference, or on a regression task of pairs, as stsb, by the cosines of the two with the labels.",
    )
    parser.add_argument("model", metavar="DIR", help="directory of a model or of a run, or a hub id")
    parser.add_argument("--task", help=f"{', '.join(TASKS)}, or a folder in the --data directory; by default the run's")
    parser.add_argument("--data", metavar="DIR", help="directory with <task>/validation.parquet; by default the hub")
    parser.add_argument("--train-file", metavar="FILE", help="training file, if the class names must come from it")
    parser.add_argument("--validation-file", metavar="FILE", help="Parquet, CSV or JSONL file to evaluate on")
    parser.add_argument("--validation-fraction", type=float, help="evaluate on the rows that training held out")
    parser.add_argument("--max-eval-samples", type=positive, metavar="N", help="evaluate on the first N rows only")
    parser.add_argument("--text-column", help="column of the text, or of lists of words")
    parser.add_argument("--pair-column", help="column of the second text, for pairs")
    parser.add_argument(
        "--label-column", help="column of the label, or of the words' labels; with commas columns of 0 and 1"
    )
    parser.add_argument("--task-kind", default=AUTO, help=f"{', '.join((AUTO, *ASKED_KINDS))}")
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="model whose sentence embeddings are to be repeated; by default the run's teacher",
    )
    parser.add_argument(
        "--max-length", type=positive, help="tokens a text is cut to; by default the run's or the task's"
    )
    parser.add_argument("--doc-stride", type=int, help="overlap in tokens of the windows of a long passage")
    parser.add_argument("--batch-size", type=positive, default=64, help="sequences a batch (default: 64)")
    parser.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        help="of products on a CPU; by default what the model's config says",
    )
    parser.add_device_flag()
    parser.add_json_flag()
    return parser


def result_table(result: dict[str, Any]) -> RichTable:
    table = RichTable(title=escape(f"{result['model']} on {result['task']}"), title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result["metrics"].items():
        style = "bold" if name == result["main_metric"] else ""
        table.add_row(name, f"{value:.4f}", style=style)
    table.add_section()
    table.add_row("score", f"{result['score']:.2f}", style="bold")
    table.add_row("examples", f"{result['examples']:,}")
    table.add_row("parameters", f"{result['parameters']:,}")
    table.add_row("seconds", f"{result['seconds']:.1f} ({result['device']}, {result['precision']})")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse(argv)
    keep_freed_memory()
    # with JSON on standard output the table goes where it does not mix with it
    console = Console(stderr=options.json == "-")
    result = evaluate(options, parser, console)
    console.print(result_table(result))
    if options.json is not None:
        write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
