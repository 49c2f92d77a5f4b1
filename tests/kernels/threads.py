"""Work in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


def in_threads(work: Callable[[int], None], values: Iterable[int]) -> None:
    """`work(value)` in a thread of its own for each value; returns when all have ended."""
    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
