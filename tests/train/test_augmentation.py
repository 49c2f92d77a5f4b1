"""Runs with --augment: the same steps on more versions, whatever keeps the teacher's outputs, stopped or shared out."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import BertForMaskedLM

from cofi import CompactModel
from cofi.cli import run as run_command
from cofi.data.augment import draw_places, find_words, in_editions, nearest_words, replaced
from cofi.data.batches import collate
from cofi.data.features import load_tokenizer, tokenize
from cofi.data.load import load_splits
from cofi.models.load import load_model
from cofi.train import augmentation, loop, monitor, pipeline
from cofi.train import teacher as teacher_module
from cofi.train.__main__ import main
from cofi.train.teacher import CachedTeacher, Teacher, make_teacher
from cofi.train.teacher_store import Contents
from tests.killed import killed_after
from tests.tiny_run import run_flags, write_checkpoint
from tests.train.processes import run_together, train_command, without_measuring
from tests.train.test_distributed import LEARNING, assert_same_curve, changed
from tests.train.test_run import read_lines, without_times


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring(monkeypatch)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a tokenizer of wordpieces."""
    return write_checkpoint(tmp_path_factory.mktemp("pieces"), pieces=("##s",))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model of the same vocabulary."""
    return write_checkpoint(tmp_path_factory.mktemp("masked"), pieces=("##s",), architecture=BertForMaskedLM)


@pytest.fixture
def flags(pieces: Path, data: Path, tmp_path: Path, undrawn: None) -> list[str]:
    return [*run_flags(pieces, data, tmp_path / "run"), "--augment", "2"]


def curve(run: Path) -> list[dict]:
    return without_times(read_lines(run / "metrics.jsonl"))


def of(rows: list[dict], phase: str) -> list[float]:
    return [row["loss"] for row in rows if row["phase"] == phase and row["type"] == "step"]


def shown_ids(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[int, list[int]]]]:
    """Phase and tokens by row of every step that is taken from now on."""
    seen: list[tuple[str, dict[int, list[int]]]] = []
    indices = loop.PhaseLoop._indices

    def watched(self: loop.PhaseLoop, step: int) -> list[int]:
        rows = indices(self, step)
        ids = self.data.split.input_ids
        seen.append((self.phase, {row % self.data.n_rows: ids[row].tolist() for row in rows}))
        return rows

    monkeypatch.setattr(loop.PhaseLoop, "_indices", watched)
    return seen


def test_a_run_shows_every_version_in_turn_and_takes_no_more_steps(flags, tmp_path, pieces, data, monkeypatch):
    assert main(changed(flags, output=tmp_path / "plain", augment=0)) == 0
    seen = shown_ids(monkeypatch)
    assert main(flags) == 0
    run, plain = curve(tmp_path / "run"), curve(tmp_path / "plain")
    assert [(row["type"], row["step"]) for row in run] == [(row["type"], row["step"]) for row in plain]
    assert of(run, "teacher") == of(plain, "teacher") and of(run, "prune") != of(plain, "prune")
    splits = load_splits("animals", data_dir=data)
    rows = [ids.tolist() for ids in tokenize(splits.train, splits.task, load_tokenizer(pieces), 32).input_ids]
    epochs = {phase: [shown for other, shown in seen if other == phase] for phase, _ in seen}
    assert all(shown[row] == rows[row] for shown in epochs["teacher"] for row in shown)
    by_epoch = [
        {row: ids for shown in epochs["prune"][4 * e : 4 * e + 4] for row, ids in shown.items()} for e in range(3)
    ]
    assert all(sorted(shown) == list(range(64)) for shown in by_epoch)
    for row, ids in enumerate(rows):
        versions = [shown[row] for shown in by_epoch]
        assert {len(version) for version in versions} == {len(ids)}
        assert versions[-row % 3] == ids  # version 0 is the row itself
    assert sum(len({tuple(shown[row]) for shown in by_epoch}) == 3 for row in range(64)) > 45
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["augment"] == 2
    assert not (tmp_path / "run" / "checkpoints" / "augmented.pt").exists()


def stopped_and_resumed(flags: list[str], run: Path, step: int) -> None:
    with killed_after(step):
        main([*flags, "--save-seconds", "0"])
    assert main(["--output", str(run), "--resume"]) == 0


# phases end after steps 8, 12, 24 and 28
@pytest.mark.parametrize("step", [5, 8, 14, 26], ids=["teacher", "before versions", "prune", "finetune"])
def test_a_killed_run_resumes_bit_for_bit(flags, run_once, tmp_path, step):
    whole, broken = run_once(flags), tmp_path / "broken"
    stopped_and_resumed(changed(flags, output=broken), broken, step)
    assert curve(whole) == curve(broken)
    models = [CompactModel.from_pretrained(run / "model").state_dict() for run in (whole, broken)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_versions_are_made_once_and_of_these_rows(flags, tmp_path, monkeypatch, capsys):
    """A continued run takes them from its directory, and refuses those of other rows."""
    find = augmentation.nearest_words
    calls = []
    monkeypatch.setattr(augmentation, "nearest_words", lambda *a, **k: calls.append(1) or find(*a, **k))
    file = tmp_path / "run" / "checkpoints" / "augmented.pt"
    with killed_after(14):
        main([*flags, "--save-seconds", "0"])
    kept = torch.load(file)
    kept["versions"][0, 1] += 1
    torch.save(kept, file)
    again = ["--output", str(tmp_path / "run"), "--resume"]
    assert run_command(lambda: main(again)) == 2
    assert "augmented.pt is not of the rows that there are to train on now" in capsys.readouterr().err
    kept = torch.load(file)
    kept["versions"][0, 1] -= 1
    torch.save(kept, file)
    assert main(again) == 0
    assert calls == [1]


@pytest.fixture
def augmented(pieces, data):
    """A teacher and 64 rows in three editions."""
    splits, tokenizer = load_splits("animals", data_dir=data), load_tokenizer(pieces)
    split = tokenize(splits.train, splits.task, tokenizer, 32)
    model = load_model(str(pieces), head="classification", num_labels=2).model.eval()
    words = find_words(tokenizer, model.config.vocab_size)
    nearest = nearest_words(model.embeddings.word.weight, words.ids, words.ids)
    draws = draw_places(words.places(split.input_ids), 2, 0.5, 15, seed=0)
    return model, split, in_editions(split, replaced(split.input_ids, draws, nearest))


@pytest.mark.parametrize("kept", ["ram", "disk"])
def test_kept_outputs_are_those_of_the_version_that_is_shown(augmented, tmp_path, monkeypatch, kept):
    model, split, editions = augmented
    monkeypatch.setattr(teacher_module, "CHUNK_ROWS", 10)  # chunks across two editions
    cached, _ = make_teacher(model, (0, 1), editions.split, kept, tmp_path / "kept")
    assert isinstance(cached, CachedTeacher)
    plain = Teacher(model, (0, 1))
    logits = []
    for epoch in (0, 1, 2, 1, 0):
        batch = collate(editions.split, editions.rows(epoch, [63, 5, 17, 40, 0]))
        got, want = cached(batch), plain(batch)
        torch.testing.assert_close(got.logits, want.logits, rtol=1e-5, atol=1e-6)
        for layer in (0, 1):
            torch.testing.assert_close(got.hidden_states[layer], want.hidden_states[layer], rtol=1e-5, atol=1e-5)
        logits.append(got.logits)
    assert torch.equal(logits[0], logits[4]) and not torch.allclose(logits[0], logits[1], rtol=1e-3)


def test_an_epoch_computes_no_more_than_its_edition(augmented, monkeypatch):
    model, _, editions = augmented
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    cached, _ = make_teacher(model, (), editions.split, "ram")
    for epoch, chunks in enumerate((1, 2, 3, 3)):  # 64 rows are a chunk
        cached(collate(editions.split, editions.rows(epoch, range(64))))
        assert len(calls) == chunks


def test_the_predicted_size_is_that_of_all_versions(augmented, tmp_path, monkeypatch):
    model, split, editions = augmented
    need = Contents.of(model, (1,), editions.split, 64).n_bytes()
    assert need == 3 * Contents.of(model, (1,), split, 64).n_bytes()
    monkeypatch.setattr(teacher_module, "free_bytes", lambda device: 4 * need - 1)
    monkeypatch.setattr(teacher_module, "free_disk_bytes", lambda path: 2 * need - 1)
    teacher, line = make_teacher(model, (1,), editions.split, "auto", tmp_path / "kept")
    assert not isinstance(teacher, CachedTeacher) and f"a cache would take {need / 1e9:.2f} GB" in line
    assert isinstance(make_teacher(model, (1,), split, "auto", tmp_path / "kept")[0], CachedTeacher)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_runs_learn_the_same_from_kept_outputs_as_from_computed_ones(flags, tmp_path, cache):
    runs = {name: tmp_path / name for name in (cache, "none")}
    for name, run in runs.items():
        assert main(changed(flags, output=run, teacher_cache=name, prune_epochs=4)) == 0
    losses = [[row["loss"] for row in curve(run) if row["type"] == "step"] for run in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("extra", [[], ["masked"]], ids=["neighbours", "masked model"])
def test_two_processes_learn_what_one_does(pieces, masked, data, tmp_path, extra):
    folder = tmp_path / "undropped"
    shutil.copytree(pieces, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    flags = changed(run_flags(folder, data, tmp_path / "one"), **LEARNING, augment=2)
    flags += ["--augment-mlm", str(masked)] if extra else []
    assert main(flags) == 0
    assert run_together(train_command, changed(flags, output=tmp_path / "two"), folder=tmp_path).codes == [0, 0]
    assert_same_curve(tmp_path / "two", tmp_path / "one", 40)


def test_a_masked_model_is_asked_once_in_a_run(flags, tmp_path, masked, monkeypatch):
    """What it gave is kept: the model may be gone when the run is continued."""
    model = tmp_path / "masked"
    shutil.copytree(masked, model)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = [*flags, "--augment-mlm", str(model)]
    assert main(changed(flags, output=whole)) == 0
    assert main(changed(flags[:-2], output=tmp_path / "neighbours")) == 0
    assert of(curve(whole), "prune") != of(curve(tmp_path / "neighbours"), "prune")
    with killed_after(14):
        main([*changed(flags, output=broken), "--save-seconds", "0"])
    shutil.rmtree(model)
    assert main(["--output", str(broken), "--resume"]) == 0
    assert curve(whole) == curve(broken)


def test_a_signal_while_the_model_is_asked(flags, tmp_path, masked, monkeypatch, capsys):
    flags = [*flags, "--augment-mlm", str(masked)]
    assert main(changed(flags, output=tmp_path / "whole")) == 0
    ask = augmentation.Questions.ask

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return ask(self, *arguments)

    monkeypatch.setattr(augmentation.Questions, "_in_batches", lambda self, lengths: np.array_split(self._rows * 0, 3))
    monkeypatch.setattr(augmentation.Questions, "ask", interrupted)
    assert main(flags) == 128 + signal.SIGTERM
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    without_measuring(monkeypatch)
    assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_where_nothing_can_be_redrawn_lines_tell_the_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitor, "PLAIN_SECONDS", 0.0)
    with monitor.Monitor(tmp_path / "metrics.jsonl") as shown:
        assert list(shown.track("augment", ["a", "b", "c"])) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(":")[0] for line in lines] == [f"augment {done} of 3, ETA 0:00" for done in (1, 2)]


def test_question_answering(flags, tmp_path):
    contexts = [f"{'the red bird sings ' * (i % 4)}a cat sleeps under the tree" for i in range(30)]
    answers = [{"text": ["cat sleeps"], "answer_start": [context.index("cat")]} for context in contexts]
    table = pa.table({"question": ["the cat"] * 30, "context": contexts, "answers": answers})
    pq.write_table(table, tmp_path / "table.parquet")
    files = {f"{split}_file": tmp_path / "table.parquet" for split in ("train", "validation")}
    flags = changed(flags, task="squad", max_length=18, doc_stride=4, **files)
    for cache in ("ram", "none"):
        assert main(changed(flags, output=tmp_path / cache, teacher_cache=cache)) == 0
    losses = [[row["loss"] for row in curve(tmp_path / run) if row["type"] == "step"] for run in ("ram", "none")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_labels_of_words_stay_with_their_words(flags, tmp_path):
    words = [[*["the", "red", "bird", "sings"] * (i % 3), "a", "cat", "sleeps"] for i in range(30)]
    table = pa.table({"tokens": words, "tags": [[word[0] for word in row] for row in words]})
    pq.write_table(table, tmp_path / "table.parquet")
    files = {f"{split}_file": tmp_path / "table.parquet" for split in ("train", "validation")}
    flags = changed(flags, task="text", **files)
    for cache in ("ram", "none"):
        assert main(changed(flags, output=tmp_path / cache, teacher_cache=cache)) == 0
    losses = [[row["loss"] for row in curve(tmp_path / run) if row["type"] == "step"] for run in ("ram", "none")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("extra", [["--method", "fisher"], ["--method", "movement"], ["--no-distill"]], ids=str)
def test_baselines_and_labels_alone(flags, tmp_path, extra):
    assert main([*flags, *extra]) == 0
    assert main([*changed(flags, augment=0, output=tmp_path / "plain"), *extra]) == 0
    assert of(curve(tmp_path / "run"), "finetune") != of(curve(tmp_path / "plain"), "finetune")


def test_a_teacher_alone_is_not_augmented(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.Augmenter, "editions", None)
    assert main([*flags, "--teacher-only"]) == 0


def test_a_vocabulary_without_marks_is_refused_before_anything_is_written(flags, checkpoint, tmp_path, capsys):
    assert run_command(lambda: main(changed(flags, model=checkpoint))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --augment needs a tokenizer") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_rows_without_words_are_refused(flags, tmp_path, capsys):
    pq.write_table(pa.table({"sentence": ["12 , 7", "?"], "label": [0, 1]}), tmp_path / "table.parquet")
    files = {f"{split}_file": tmp_path / "table.parquet" for split in ("train", "validation")}
    assert run_command(lambda: main(changed(flags, task="text", **files))) == 2
    assert "--augment replaces words of letters that are one token (wordpieces)" in capsys.readouterr().err


def test_a_model_that_is_no_masked_one_is_refused(flags, pieces, tmp_path, capsys):
    assert run_command(lambda: main([*flags, "--augment-mlm", str(pieces)])) == 2
    assert "has no trained head of a masked language model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
