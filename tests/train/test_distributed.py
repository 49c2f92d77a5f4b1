"""Runs on several processes (gloo, on the CPU): what one process gives, whatever their number, and how they end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.train.__main__ import main
from cofi.train.distributed import launched_world
from tests.tiny_run import WORDS, run_flags
from tests.train.processes import run_together, train_command, whole_command, without_measuring
from tests.train.test_run import read_lines, without_times

# Sums of the same numbers in another order. An error of 1e-7 grows over some 30 steps of Adam, which divides by the
# root of a small number; the largest difference seen is less than half of this. The floor is for losses that are noise
# by then. A correlation of predictions that hardly differ magnifies their rounding: 6.5e-5 was seen.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
CORRELATIONS, RELATIVE_OF_THESE = ("score", "pearson", "combined"), 5e-4
LEARNING = {  # rates at which everything moves, so that no gradient is noise that Adam would scale up
    "student-init": "model",
    "teacher-learning-rate": 1e-3,
    "learning-rate": 3e-4,
    "start-sparsity": 0.1,
    "batch-size": 15,  # of 64 rows: shares of 8 and 7, and a last batch of 4
}
SHORT = {
    "distil_epochs": 0,
    "teacher_epochs": 1,
    "prune_epochs": 1,
    "sparsity_warmup_epochs": 0.5,
    "finetune_epochs": 1,
    "measure_seconds": 0.01,
}


def changed(flags: list[str], **settings: object) -> list[str]:
    return [*flags, *(word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value)))]


@pytest.fixture(scope="module", autouse=True)
def _without_measuring() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_measuring(patch)
        yield


@pytest.fixture(scope="module")
def undropped(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint without dropout, whose numbers depend on how a batch is shared out."""
    folder = tmp_path_factory.mktemp("undropped")
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def whole(undropped: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Flags of a run, and the directory of it on one process."""
    run = tmp_path_factory.mktemp("whole") / "run"
    flags = changed(run_flags(undropped, data, run), **LEARNING)
    assert main(flags) == 0
    return flags, run


def assert_same_curve(got: Path, want: Path, at_least: int) -> None:
    rows, expected = (read_lines(run / "metrics.jsonl") for run in (got, want))
    assert len(rows) == len(expected) >= at_least
    for row, other in zip(without_times(rows), without_times(expected), strict=True):
        assert row.keys() == other.keys()
        for mine, theirs in ((row, other), (row.pop("metrics", {}), other.pop("metrics", {}))):
            for name, value in theirs.items():
                relative = RELATIVE_OF_THESE if name in CORRELATIONS else RELATIVE
                close = pytest.approx(value, rel=relative, abs=ABSOLUTE) if isinstance(value, float) else value
                assert mine[name] == close, (name, row, other)
    results = [json.loads((run / "result.json").read_text()) for run in (got, want)]
    assert results[0]["structure"] == results[1]["structure"]


def test_two_processes_learn_what_one_does(whole, tmp_path):
    flags, run = whole
    ended = run_together(whole_command, changed(flags, output=tmp_path / "two"), folder=tmp_path)
    assert ended.codes == [0, 0]
    assert_same_curve(tmp_path / "two", run, 40)
    assert "compact" in ended.out[0] and ended.out[1] == ended.err[1] == ""
    assert (tmp_path / "two" / "report.html").is_file()
    assert json.loads((tmp_path / "two" / "result.json").read_text())["processes"] == 2


def test_any_number_of_processes_goes_on_with_a_run(whole, tmp_path):
    """A signal to one of them stops all after the same step, and the main one saves once."""
    flags, run = whole
    flags = changed(flags, output=tmp_path / "run", teacher_cache="disk")
    ended = run_together(train_command, flags, {2: (7, signal.SIGTERM)}, size=3, folder=tmp_path)
    assert ended.codes == [128 + signal.SIGTERM] * 3
    assert ended.err[0].count("stopped by SIGTERM; saved") == 1 and ended.err[1] == ended.err[2] == ""
    again = ["--output", str(tmp_path / "run"), "--resume"]
    assert saved_step(tmp_path / "run") == 7
    ended = run_together(train_command, again, {0: (15, signal.SIGINT)}, folder=tmp_path)
    assert ended.codes == [128 + signal.SIGINT] * 2
    assert saved_step(tmp_path / "run") == 22
    assert main(again) == 0
    assert_same_curve(tmp_path / "run", run, 40)


def test_a_run_that_ends_with_its_teacher(whole, tmp_path):
    flags = changed(whole[0], output=tmp_path / "run", teacher_epochs=1)
    assert run_together(train_command, [*flags, "--teacher-only"], folder=tmp_path).codes == [0, 0]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2


def saved_step(run: Path) -> int:
    return int(torch.load(run / "checkpoints" / "last.pt")["global_step"])


def write_regression(folder: Path, rows: int) -> list[str]:
    draw = random.Random(0)  # no sentence twice: rounding decides which of two equal predictions ranks higher
    sentences = [" ".join(draw.sample(WORDS, draw.randint(3, 12))) for _ in range(rows)]
    labels = [len(sentence) / 10 for sentence in sentences]
    pq.write_table(pa.table({"sentence": sentences, "label": labels}), folder / "table.parquet")
    return ["--task", "text", "--task-kind", "regression"]


def write_questions(folder: Path, rows: int) -> list[str]:
    contexts = [f"{'the red bird sings ' * (i % 4)}a cat sleeps under the tree" for i in range(rows)]
    answers = [{"text": ["cat sleeps"], "answer_start": [context.index("cat")]} for context in contexts]
    table = pa.table({"question": ["the cat"] * rows, "context": contexts, "answers": answers})
    pq.write_table(table, folder / "table.parquet")
    return ["--task", "squad", "--max-length", "18", "--doc-stride", "4"]


@pytest.mark.parametrize("write", [write_regression, write_questions], ids=["regression", "question answering"])
def test_other_tasks_with_a_batch_too_small_to_share(whole, tmp_path, write):
    """43 rows in batches of 21 leave one row for the last; windows of long passages make it more, and as uneven."""
    task = write(tmp_path, 43)
    files = {f"{split}_file": tmp_path / "table.parquet" for split in ("train", "validation")}
    short = {**SHORT, "batch_size": 21, "eval_batch_size": 5, "teacher_cache": "none"}
    runs = [tmp_path / name for name in ("one", "two")]
    flags = changed([*whole[0], *task], **files, **short)
    assert main(changed(flags, output=runs[0])) == 0
    assert run_together(train_command, changed(flags, output=runs[1]), folder=tmp_path).codes == [0, 0]
    assert_same_curve(runs[1], runs[0], 10)


def test_runs_with_dropout_repeat(flags, tmp_path):
    """Processes drop different units, weights stay the same in all (evaluations check it), a run can be repeated."""
    curves = []
    for name in ("a", "b"):
        short = changed(flags, **SHORT, output=tmp_path / name, batch_size=22)
        assert run_together(train_command, short, folder=tmp_path).codes == [0, 0]
        curves.append(without_times(read_lines(tmp_path / name / "metrics.jsonl")))
    assert curves[0] == curves[1]


@pytest.mark.parametrize("dead", [0, 1], ids=["the main one", "another"])
def test_a_process_that_dies_ends_the_run(whole, tmp_path, dead):
    flags = changed(whole[0], output=tmp_path / "run", save_seconds=0)
    ended = run_together(train_command, flags, {dead: (20, signal.SIGKILL)}, folder=tmp_path)
    assert ended.codes[dead] == -signal.SIGKILL and ended.codes[1 - dead] == 2
    last = ended.err[1 - dead].splitlines()[-1]
    assert last.startswith("error: another process of this run has ended") and "--resume" in last
    assert saved_step(tmp_path / "run") == 19


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            ["--batch-size", "1"],
            "--batch-size is shared out over the processes and must be at least their number, 2, got",
        ),
        (["--device", "cuda:1"], "--device must be auto, cpu or cuda where 2 processes train, got 'cuda:1'"),
        (["--colour", "red"], "--colour"),
    ],
    ids=["batch", "device", "flag"],
)
def test_what_all_find_wrong_is_said_once(flags, tmp_path, extra, words):
    ended = run_together(train_command, [*flags, *extra], folder=tmp_path)
    assert ended.codes == [2, 2]
    assert ended.err[0].startswith("error: ") and words in ended.err[0] and ended.err[0].count("\n") == 1
    assert ended.err[1] == ""
    assert not (tmp_path / "run").exists()


def fail_alone(culprit: int) -> int:
    def work() -> int:
        with launched_world() as world:
            if world.rank == culprit:
                raise UserError("only here")
            world.wait()
        return 0

    return run_command(work)


@pytest.mark.parametrize("culprit", [0, 1], ids=["the main one", "another"])
def test_what_one_finds_wrong_ends_all(tmp_path, culprit):
    ended = run_together(fail_alone, culprit, folder=tmp_path)
    assert ended.codes == [2, 2]
    assert ended.err[culprit].splitlines()[-1] == "error: only here"
    assert ended.err[1 - culprit].splitlines()[-1].startswith("error: another process of this run has ended")


def sum_different_parts() -> int:
    """What a process that has masked out other sublayers would do."""
    with launched_world() as world:
        parts: list[torch.Tensor | None] = [torch.ones(2), None, torch.full((3,), world.rank + 1.0), torch.tensor(2.0)]
        world.sum_(parts)
        assert [None if part is None else part.tolist() for part in parts] == [[2, 2], None, [3, 3, 3], 4]
        parts[world.rank] = None
        with pytest.raises(UserError, match="the masks must be the same in all 2 processes"):
            world.sum_(parts)
    return 0


def test_gradients_of_different_masks_are_not_added(tmp_path):
    ended = run_together(sum_different_parts, folder=tmp_path)
    assert ended.codes == [0, 0], ended.err


def test_torchrun_and_ctrl_c(whole, tmp_path):
    """The command as it is typed. torchrun hands the signal on, once, to each process."""
    flags = changed(whole[0], output=tmp_path / "run", prune_epochs=10_000, save_seconds=0)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with subprocess.Popen([*command, "-m", "cofi.train", *flags], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("prune step"):
                os.kill(process.pid, signal.SIGINT)
                break
        rest = process.stderr.read()
        process.wait()
    assert rest.count("stopped by SIGINT; saved. Continue with: torchrun ... -m cofi.train --output") == 1, rest
    assert saved_step(tmp_path / "run") > 15
