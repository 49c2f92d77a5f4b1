"""Kernels for pruning encoders: ops on tensors, each with a reference in plain PyTorch and faster backends.

`print(backends())` says what each op runs on here, and why not on something faster.
"""

from cofi_kernels.library import backends, force_backend

__version__ = "0.1.0"

__all__ = [
    "backends",
    "force_backend",
]
