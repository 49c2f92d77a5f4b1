"""The processes that train together. `torchrun -m cofi.train` starts them; a run without it is a world of one.

Every process holds the whole student and the same random streams, so all sample the same masks. A batch is shared out,
gradients are added up, and what the host decides (a signal, a checkpoint that is due) is decided by all together. Only
the main process writes.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cofi.cli import EXIT_USER_ERROR
from cofi.errors import UserError

TIMEOUT = timedelta(minutes=30)  # that one may be busy alone: reading data, writing a checkpoint of gigabytes
SAME_ERROR_SECONDS = 2.0  # for the main process to say what all of them found
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
T = TypeVar("T")


class World:
    """A single process. Nothing is sent, and everything is the whole already.

    rank, size:             this process of how many; the main one is 0
    local_rank, local_size: the same on this machine
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files of the run and speaks for all."""
        return self.rank == 0

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.leave()

    def device_name(self, name: str) -> str:
        """The device that --device means for this process. Raises UserError."""
        return name

    def connect(self, device: torch.device) -> None:
        """Work is going to be done on `device`, and tensors on it to be sent."""
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)

    def stream(self, name: str) -> str:
        """Name of a random stream of this process's own; the main process has that of a world of one."""
        return name if self.is_main else f"{name}/{self.rank}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every size-th item, from this process's own on."""
        return items[self.rank :: self.size]

    def gather(self, items: list[T]) -> list[T]:
        """All items, in order, from what each process made of its `share`."""
        return items

    def agree(self, *numbers: int) -> list[int]:
        """The largest of what the processes say, number by number, each within int64."""
        return list(numbers)

    def require_same(self, what: str, number: Callable[[], int]) -> None:
        """Raise UserError where a number, made from `what`, is not the same in all processes."""

    def total(self, part: Tensor) -> Tensor:
        """The sum over all processes, without a gradient; the same bits in each."""
        return part

    def sum_(self, parts: Sequence[Tensor | None]) -> None:
        """Replace tensors of one dtype and device by their sums over all processes, in one message.

        Raises UserError where another one has None in other places.
        """

    def decide(self, make: Callable[[], T]) -> T:
        """What `make` gives in the main process, in all of them; so with a UserError that it raises."""
        return make()

    def in_turn(self, make: Callable[[], T]) -> T:
        """`make` in the main process first, then in the others."""
        return make()

    def wait(self) -> None:
        """Until all processes are here, and what the main one wrote before is on the disk."""

    def leave(self) -> None:
        """The end of working together, when all are here; each may go on alone, or end.

        One that ended while the main process still saves would have torchrun stop that.
        """


ALONE = World()


class Processes(World):
    """Several processes, over torch.distributed: gloo for what the host knows and for a CPU, nccl between GPUs."""

    def __init__(self, rank: int, size: int, local_rank: int, local_size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._nccl: Any = None
        try:
            self._store, *_ = next(dist.rendezvous("env://", timeout=TIMEOUT))
            store = dist.PrefixStore("cofi", self._store)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the {size} processes cannot reach one another: {_first_line(error)}") from error
        if not self.is_main:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # lives as long as the process

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        if isinstance(value, UserError) and not isinstance(value, _Lost) and self._is_said(str(value)):
            raise SystemExit(EXIT_USER_ERROR)

    def _is_said(self, message: str) -> bool:
        """Whether the main process, which found the same error, is the one to print it."""
        patience = timedelta(seconds=SAME_ERROR_SECONDS)
        heard = [f"cofi/heard/{rank}" for rank in range(1, self.size)]
        try:
            if self.is_main:
                self._store.set("cofi/error", message)
                self._store.wait(heard, patience)
                return False
            self._store.wait(["cofi/error"], patience)
            same = self._store.get("cofi/error") == message.encode()
            self._store.set(heard[self.rank - 1], "")
        except RuntimeError:  # it is the error of one of them, or one is gone
            return False
        if same:
            time.sleep(SAME_ERROR_SECONDS / 4)  # torchrun ends all of them when the first one ends
        return same

    def device_name(self, name: str) -> str:
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return "cpu"
        if name not in ("auto", "cuda"):
            raise UserError(f"--device must be auto, cpu or cuda where {self.size} processes train, got {name!r}")
        found = torch.cuda.device_count()
        if self.local_size > found:
            raise UserError(
                f"--nproc-per-node must be at most the GPUs of this machine, {found}, got {self.local_size} "
                "(--device cpu takes any number)"
            )
        return f"cuda:{self.local_rank}"

    def connect(self, device: torch.device) -> None:
        super().connect(device)
        if device.type == "cuda":
            with _answered():
                self._nccl = dist.new_group(backend="nccl", timeout=TIMEOUT)

    def gather(self, items: list[T]) -> list[T]:
        parts: list[list[T]] = [[] for _ in range(self.size)]
        with _answered():
            dist.all_gather_object(parts, items)
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def agree(self, *numbers: int) -> list[int]:
        largest = torch.tensor(numbers, dtype=torch.int64)
        with _answered():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def require_same(self, what: str, number: Callable[[], int]) -> None:
        own = number()
        most, least = self.agree(own, -own)
        if most != -least:
            raise UserError(
                f"the {what} must be the same in all {self.size} processes, and differ: give them the same files and "
                "versions, and machines of one kind"
            )

    def total(self, part: Tensor) -> Tensor:
        total = part.detach().clone()
        with _answered():
            dist.all_reduce(total, group=self._nccl if total.is_cuda else None)
        return total

    def sum_(self, parts: Sequence[Tensor | None]) -> None:
        self.require_same("masks", lambda: zlib.crc32(bytes(part is not None for part in parts)))
        found = [part.detach() for part in parts if part is not None]
        total = self.total(torch.cat([part.reshape(-1) for part in found]))
        for part, values in zip(found, total.split([part.numel() for part in found]), strict=True):
            part.copy_(values.view(part.shape))

    def decide(self, make: Callable[[], T]) -> T:
        made: list[Any] = [None, None]
        if self.is_main:
            try:
                made[0] = make()
            except UserError as error:
                made[1] = str(error)
        with _answered():
            dist.broadcast_object_list(made, src=0)
        if made[1] is not None:
            raise UserError(made[1])
        value: T = made[0]
        return value

    def in_turn(self, make: Callable[[], T]) -> T:
        if self.is_main:
            made = make()
            self.wait()
            return made
        self.wait()
        return make()

    def wait(self) -> None:
        with _answered():
            dist.barrier()

    def leave(self) -> None:
        if dist.is_initialized():
            self.wait()
            dist.destroy_process_group()


class _Lost(UserError):
    """Another process does not answer: only its own message says why."""


@contextmanager
def _answered() -> Iterator[None]:
    """Where all processes must take part: turns the absence of one into a UserError."""
    try:
        yield
    except RuntimeError as error:
        raise _Lost(
            f"another process of this run has ended, or has not answered for {TIMEOUT.seconds // 60} minutes; its own "
            f"message says why, and --resume goes on from the last checkpoint ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def launched_world() -> World:
    """The world that this process was launched into: several where torchrun's variables say so, else one.

    Raises UserError where they make no sense or the others cannot be reached.
    """
    values = {name: os.environ.get(name) for name in LAUNCHED}
    if None in values.values() or values["WORLD_SIZE"] == "1":
        return ALONE
    if not dist.is_available() or not dist.is_gloo_available():
        raise UserError("several processes need a PyTorch that was built with torch.distributed and gloo")
    rank, size = _number("RANK", "0"), _number("WORLD_SIZE", "1")
    local_rank = _number("LOCAL_RANK", str(rank))
    local_size = _number("LOCAL_WORLD_SIZE", str(size))
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise UserError(
            f"RANK must be below WORLD_SIZE and LOCAL_RANK below LOCAL_WORLD_SIZE, got {rank} of {size} and "
            f"{local_rank} of {local_size}"
        )
    return Processes(rank, size, local_rank, local_size)


def _number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal():
        raise UserError(f"{name} must be a whole number, got {text!r}")
    return int(text)
