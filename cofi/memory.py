"""What the C library does with memory that is freed: a step or a batch frees it, the next asks for it again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's settings in glibc
_NEVER = -1
_LARGEST = (1 << 30, 32 << 20)  # bytes; glibc before 2.35 refuses more than the second


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step instead of giving it back; False with another C library.

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
