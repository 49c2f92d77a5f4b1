"""Memory of the host: how much a process may still take, and what the C library does with what is freed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's settings in glibc
_NEVER = -1
_LARGEST = (1 << 30, 32 << 20)  # bytes; glibc before 2.35 refuses more than the second
_FREE_SHARE = 0.5  # of all memory: taken to be free where the system does not say what is (macOS)
_ASSUMED_FREE = 4 << 30  # bytes, where it does not say what there is either (Windows)
_MEMBERSHIP, _CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step instead of giving it back; False with another C library.

    A step or a batch frees it, the next asks for it again.

    Memory that comes back from the system is cleared page by page when it is first touched: a third of the time of a
    step of BERT-base at 95 % sparsity, which allocates some 2 GB in tensors of 12 MB (1.4 s with, 0.95 s without).
    Outputs of large batches likewise: padded states of 16 MB cost a pruned model 10 ms of 63. The commands call it; a
    server may. The process stays as large as it was at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


class _Controller(NamedTuple):
    """Where a version of control groups keeps the memory of a group: files, and the entry of memory.stat for cache."""

    folder: str
    limit: str
    usage: str
    cache: str


_V1 = _Controller("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Controller("", "memory.max", "memory.current", "inactive_file")


def free_host_bytes(membership: Path = _MEMBERSHIP, mounted: Path = _CONTROL_GROUPS) -> int:
    """Bytes this process may take: what is free on the host, or less where a control group (a container) limits it.

    membership: the control groups of the process, as /proc/self/cgroup lists them
    mounted: where they are
    """
    left = (_headroom(group, controller) for group, controller in _groups(membership, mounted))
    return min([_free_on_host(), *(n_bytes for n_bytes in left if n_bytes is not None)])


def _free_on_host() -> int:
    page_bytes, pages = _sysconf("SC_PAGE_SIZE"), _sysconf("SC_AVPHYS_PAGES")
    if pages is None and (all_pages := _sysconf("SC_PHYS_PAGES")) is not None:
        pages = int(_FREE_SHARE * all_pages)
    return _ASSUMED_FREE if page_bytes is None or pages is None else page_bytes * pages


def _sysconf(name: str) -> int | None:
    """A number of the system; None where it has no such name, no such call, or does not tell."""
    try:
        value = os.sysconf(name)
    except (AttributeError, ValueError, OSError):
        return None
    return value if value >= 0 else None


def _groups(membership: Path, mounted: Path) -> Iterator[tuple[Path, _Controller]]:
    """Folders of the process's groups and of those around them, whose limits hold as well.

    A container may see the path on its host, which is not there, and its own group as the outermost.
    """
    try:
        lines = membership.read_text(errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return
    for hierarchy, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if hierarchy == "0" or "memory" in controllers.split(","):
            controller = _V2 if hierarchy == "0" else _V1
            outermost = mounted / controller.folder
            inner = PurePosixPath(path.lstrip("/"))
            yield from ((outermost / group, controller) for group in (inner, *inner.parents))


def _headroom(group: Path, controller: _Controller) -> int | None:
    """Bytes below the limit of a group, None without one. Cache of files is not counted: the kernel takes it back."""
    try:
        limit, used = int((group / controller.limit).read_text()), int((group / controller.usage).read_text())
    except (OSError, ValueError):  # "max"
        return None
    return max(0, limit - max(0, used - _cached(group, controller)))


def _cached(group: Path, controller: _Controller) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        return int(dict(line.split(maxsplit=1) for line in lines)[controller.cache])
    except (OSError, ValueError, LookupError):
        return 0
