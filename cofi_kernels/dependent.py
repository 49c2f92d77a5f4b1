# mypy: disallow-untyped-defs=False
"""What a kernel calls first that may be launched before the one in front of it has ended, see `launching.py`.

Every program must call it before it touches memory, those with nothing to do as well: a grid ends, for the one behind
it, when all its programs have waited or ended.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr):
    """Wait until all that kernels in front have written can be read, then let the one behind come onto the GPU."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
