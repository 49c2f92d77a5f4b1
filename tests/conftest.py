"""What every test gets: a seed, poisoned memory, a device, and the way to fixtures that do not travel with the code."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils._device import _device_constructors

from tests import triton_interpreter

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach a hub, and looking for one takes half a minute
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported: kernels then run on the CPU

BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared"


def pytest_sessionstart() -> None:
    """Listen to SIGINT also where a shell that starts jobs in the background had it ignored: tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    random.seed(0)


@pytest.fixture(autouse=True, scope="session")
def _triton_interpreter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        triton_interpreter.mend(patch)
        yield


@pytest.fixture(autouse=True, scope="session")
def _poison_empty() -> Iterator[None]:
    """Fill new memory with NaN, so that a kernel that leaves an element of its output unwritten fails."""
    _device_constructors()  # cached with the real torch.empty in it, or `with torch.device("meta")` would not see it
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (torch.Tensor, "new_empty"),
        ):
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(allocate)
    def run(*args: object, **kwargs: object) -> torch.Tensor:
        out = allocate(*args, **kwargs)
        if type(out) is torch.Tensor and out.is_floating_point() and not out.is_meta:
            out.detach().fill_(float("nan"))
        return out

    return run


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers of the official code. COFI_REQUIRE_GOLDEN=1 turns their absence into a failure."""
    found = _folder("COFI_GOLDEN_DIR", BESIDE_THE_CHECKOUT / "golden")
    if found is None and os.environ.get("COFI_REQUIRE_GOLDEN") == "1":
        pytest.fail("COFI_REQUIRE_GOLDEN=1, but COFI_GOLDEN_DIR names no folder of golden numbers")
    return found or pytest.skip("no golden numbers: set COFI_GOLDEN_DIR")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """GLUE, SQuAD and text as Parquet files, a folder a task."""
    return _folder("COFI_DATA_DIR", BESIDE_THE_CHECKOUT / "data") or pytest.skip("no data sets: set COFI_DATA_DIR")


def _folder(variable: str, default: Path) -> Path | None:
    path = Path(os.environ.get(variable) or default)
    return path if path.is_dir() else None


# transformers is imported in the fixtures, after HF_HUB_OFFLINE is set
@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_run import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_run import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of runs without figures, which take two fifths of a tiny run; tests/report looks at them."""
    monkeypatch.setattr("cofi.report.html.draw_figures", lambda run: [])


@pytest.fixture
def flags(checkpoint: Path, data: Path, tmp_path: Path, undrawn: None) -> list[str]:
    """Of `python -m cofi.train`, for a run of seconds in tmp_path/run."""
    from tests.tiny_run import run_flags

    return run_flags(checkpoint, data, tmp_path / "run")


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Where the run of some flags is, but for its place, that nothing stopped: made for the first test that asks."""
    made: dict[tuple[str, ...], Path] = {}

    def run(flags: list[str]) -> Path:
        from cofi.train.__main__ import main

        places = {"--output", "--device-profile"}
        words = zip(["", *flags], flags, strict=False)
        key = tuple(word for before, word in words if not places & {before, word})
        if key not in made:
            output = tmp_path_factory.mktemp("whole") / "run"
            assert main([*flags, "--output", str(output)]) == 0
            made[key] = output
        return made[key]

    return run
