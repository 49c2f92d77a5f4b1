from __future__ import annotations

import errno
import os
import tracemalloc

import pytest
import torch

from cofi.errors import UserError
from cofi.train import rundir
from cofi.train.arguments import resolve
from cofi.train.checkpoint import load_checkpoint, save_checkpoint
from cofi.train.rundir import RunDirectory


def test_a_directory_that_holds_a_run_is_refused_and_kept(tmp_path):
    config = resolve({})
    run = RunDirectory(tmp_path / "run")
    run.start(config)
    run.metrics.write_text("{}\n")
    with pytest.raises(UserError, match="already holds a run.*--resume.*--overwrite"):
        run.check_free(config)
    assert run.metrics.read_text() == "{}\n"


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(resolve({}))
    run.metrics.write_text("{}\n")
    (run.root / "notes.txt").write_text("mine")
    run.start(resolve({"overwrite": True}))
    assert not run.metrics.exists()
    assert (run.root / "notes.txt").read_text() == "mine"
    assert run.read_config().overwrite is False


def test_one_process_at_a_time(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.held():
        with (
            pytest.raises(UserError, match=r"--output .*run is in use by another process"),
            RunDirectory(run.root).held(),
        ):
            pass
        run.check_free(resolve({}))  # a process that was killed may leave as much
    with run.held():
        pass
    assert not any(run.root.iterdir())


def test_a_file_system_without_locks_holds_nothing(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(rundir, "lock", refuse)
    with RunDirectory(tmp_path).held(), RunDirectory(tmp_path).held():
        pass


def test_a_directory_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty and holds no run"):
        RunDirectory(tmp_path).check_free(resolve({}))


def test_a_file_as_output_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunDirectory(tmp_path / "file").check_free(resolve({}))
    with pytest.raises(UserError, match="not a writable directory"):
        RunDirectory(tmp_path / "file" / "below").check_free(resolve({}))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not a writable directory"):
        RunDirectory(tmp_path / "run").check_free(resolve({}))


@pytest.mark.parametrize("text", ["", "[1, 2]", "task: [", "colour: red", "sparsity: high"])
def test_a_damaged_config_is_one_clear_error(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.config.write_text(text)
    with pytest.raises(UserError, match="config.yaml"):
        run.read_config()


def test_checkpoint_round_trip(tmp_path):
    content = {"model": {"w": torch.arange(3.0)}, "score": 1.5, "names": ["a"]}
    save_checkpoint(tmp_path / "c.pt", content)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded["model"]["w"], content["model"]["w"])
    assert (loaded["score"], loaded["names"]) == (1.5, ["a"])


def test_a_checkpoint_is_never_in_memory_as_a_file(tmp_path):
    """Of BERT-base with its moments it is 1.3 GB."""
    weights = torch.zeros(1 << 22)
    tracemalloc.start()
    save_checkpoint(tmp_path / "c.pt", {"w": weights})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weights.nbytes / 8
    assert torch.serialization.get_crc32_options(), "a setting of PyTorch's that others rely on is as before"


def test_a_truncated_checkpoint_is_one_clear_error(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match="c.pt cannot be loaded"):
        load_checkpoint(path)


def test_a_pickle_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": 1, "x": Payload()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "executed").exists()
