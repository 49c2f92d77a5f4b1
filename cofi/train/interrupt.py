"""Ctrl-C and SIGTERM: finish the step, save, stop. A second signal stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Interrupted(Exception):
    """The run was asked to stop and has saved itself. `signum` says by which signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class SignalGuard:
    """While active, the first SIGINT or SIGTERM only sets `received`; the next one acts as if there were no guard.

    say: shows a line, which the first signal is answered with. `received` stays after the guard, for whoever began the
    run: a signal that comes when nothing is left to stop in it ends it no sooner.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self.say: Callable[[str], None] | None = None
        self._answer: threading.Thread | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalGuard:
        for signum in self.SIGNALS:
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self._answer is not None:
            self._answer.join(timeout=1.0)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        self._restore()
        if self.say is not None:
            line = f"{signal.Signals(signum).name}: stopping after this step; a second signal stops at once"
            # not here: what was interrupted may hold the locks of the progress bars, or be in the middle of a line
            answer = threading.Thread(target=self.say, args=(line,), daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread to be had: the run saves itself without a word
                answer.start()
                self._answer = answer

    def _restore(self) -> None:
        while self._before:
            signum, handler = self._before.popitem()
            signal.signal(signum, handler)  # type: ignore[arg-type]  # what signal.signal returned above
