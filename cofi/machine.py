"""What runs on what: the device and the threads that a command is told to use, and the machine as result files name it.

For every part of cofi, those without Hugging Face among them: nothing here imports it.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import cofi_kernels
from cofi.errors import UserError
from cofi_kernels.native import load_native

MAX_THREADS = 1024  # more than any machine in use has; far more end the process


def pick_device(name: str) -> torch.device:
    """The device a name means. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # the device "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device must be auto, cpu or a GPU of this machine, got {name!r} ({reason})") from error
    return device


def set_threads(count: int | None) -> None:
    """Let PyTorch use `count` CPU threads; None leaves its own choice. Raises UserError for more than MAX_THREADS."""
    if count is None:
        return
    if count > MAX_THREADS:
        raise UserError(f"--threads must be at most {MAX_THREADS}, got {count}")
    torch.set_num_threads(count)


def versions() -> dict[str, str]:
    """Of the packages that a result depends on, by name, and of Python."""
    return {
        "cofi_kernels": cofi_kernels.__version__,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "python": platform.python_version(),
    }


def machine_info(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine as result files name it; None for what it does not have.

    device ("cpu" or the name of the GPU), cpu, threads, torch, triton, driver, commit (of this checkout), date (UTC).
    """
    device = torch.device(device)
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": _version_of("triton"),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if is_cuda else None,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu_name() -> str:
    """The model name Linux gives, elsewhere what Python knows, and the instructions where they are not the usual ones.

    One name ("AMD EPYC") stands for several processors, of which virtual machines may hide parts.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    native = load_native()
    if native is None:
        return name
    return name + (" with AMX" if native.has_amx() else " with AVX2" if native.isa() == "avx2" else "")


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the repository that tracks this very file (an installed copy has none)."""
    here = Path(__file__).resolve()
    if _output("git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _output("git", "-C", str(here.parent), "describe", "--always", "--dirty", "--exclude", "*")


def _output(*command: str) -> str | None:
    """First line a program prints, None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None
