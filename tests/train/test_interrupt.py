"""The first signal is answered and noted, the second acts as it would without a guard."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cofi.train import pipeline
from cofi.train.__main__ import main
from cofi.train.interrupt import SignalGuard

SIGNALS = pytest.mark.parametrize("signum", SignalGuard.SIGNALS, ids=lambda signum: signum.name)


@SIGNALS
def test_the_first_signal_is_noted_and_answered(signum):
    said: list[str] = []
    before = signal.getsignal(signum)
    with SignalGuard() as guard:
        guard.say = said.append
        os.kill(os.getpid(), signum)
        assert guard.received == signum
        assert signal.getsignal(signum) == before  # of the second one
    assert said == [f"{signum.name}: stopping after this step; a second signal stops at once"]
    assert guard.received == signum and signal.getsignal(signum) == before


def test_a_second_signal_stops_at_once():
    with pytest.raises(KeyboardInterrupt), SignalGuard() as guard:
        os.kill(os.getpid(), signal.SIGINT)
        assert guard.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_interrupted_may_hold_what_the_answer_needs():
    """A lock of the progress bars: an answer from the handler itself would wait for it for ever."""
    screen, said = threading.Lock(), []

    def say(line: str) -> None:
        with screen:
            said.append(line)

    with SignalGuard() as guard:
        guard.say = say
        with screen:
            os.kill(os.getpid(), signal.SIGTERM)
            assert guard.received == signal.SIGTERM and not said
    assert len(said) == 1


def test_where_no_thread_can_be_had_nothing_is_said(monkeypatch):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with SignalGuard() as guard:
        guard.say = print
        os.kill(os.getpid(), signal.SIGTERM)
    assert guard.received == signal.SIGTERM


@SIGNALS
def test_a_run_that_has_no_step_left_ends_as_it_would_have(flags, tmp_path, monkeypatch, capsys, signum):
    save_model = pipeline.save_model

    def interrupt(model, tokenizer, folder):
        if folder == tmp_path / "run" / "model":
            os.kill(os.getpid(), signum)
        save_model(model, tokenizer, folder)

    monkeypatch.setattr(pipeline, "save_model", interrupt)
    assert main(flags) == 0
    assert (tmp_path / "run" / "result.json").is_file()
    assert capsys.readouterr().err.count(f"{signum.name}: stopping after this step") == 1
