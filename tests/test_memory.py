"""Memory that a process may still take, by the host and by the control groups that it is in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cofi.memory import _ASSUMED_FREE, free_host_bytes

PAGES = {"SC_AVPHYS_PAGES": 1000, "SC_PHYS_PAGES": 3000}  # of the host of these tests
HOST = 1000 * os.sysconf("SC_PAGE_SIZE")
V1, V2 = "memory.limit_in_bytes memory.usage_in_bytes", "memory.max memory.current"


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, PAGES)


def tell(monkeypatch: pytest.MonkeyPatch, pages: dict[str, int]) -> None:
    """A host whose system knows these names of numbers of pages, and no other."""
    known = pages | {"SC_PAGE_SIZE": os.sysconf("SC_PAGE_SIZE")}

    def sysconf(name: str) -> int:
        if name not in known:
            raise ValueError("unrecognized configuration name")
        return known[name]

    monkeypatch.setattr(os, "sysconf", sysconf)


def free(tmp_path: Path, membership: str) -> int:
    (tmp_path / "membership").write_text(membership)
    return free_host_bytes(tmp_path / "membership", tmp_path / "cgroup")


def group(folder: Path, names: str, limit: object, used: int, stat: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names.split(), (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    if stat is not None:
        (folder / "memory.stat").write_text(stat)


def test_the_host_alone(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path / "absent", tmp_path) == HOST
    assert free(tmp_path, "0::/nowhere\n") == HOST


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ({"SC_PHYS_PAGES": 3000}, HOST * 3 // 2),
        ({"SC_PHYS_PAGES": 3000, "SC_AVPHYS_PAGES": -1}, HOST * 3 // 2),
        ({"SC_PHYS_PAGES": -1}, _ASSUMED_FREE),
        ({}, _ASSUMED_FREE),
    ],
    ids=["macOS", "undetermined", "neither determined", "neither known"],
)
def test_a_host_that_does_not_say_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: dict[str, int], expected: int
) -> None:
    tell(monkeypatch, pages)
    assert free_host_bytes(tmp_path / "absent", tmp_path) == expected


def test_a_host_without_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")  # Windows
    assert free_host_bytes(tmp_path / "absent", tmp_path) == _ASSUMED_FREE


@pytest.mark.parametrize(
    ("limit", "used", "stat", "expected"),
    [
        (5000, 3000, "anon 2500\nfile 500\ninactive_file 400\nactive_file 100\n", 2400),
        (5000, 3000, None, 2000),
        (5000, 3000, "noise", 2000),
        (5000, 6000, "inactive_file 0\n", 0),
        (5000, 300, "inactive_file 400\n", 5000),
        (10**12, 0, "inactive_file 0\n", HOST),
        ("max", 3000, "inactive_file 400\n", HOST),
    ],
    ids=["cache", "no stat", "noise", "over", "all cache", "above the host", "no limit"],
)
def test_version_2(tmp_path: Path, limit: object, used: int, stat: str | None, expected: int) -> None:
    group(tmp_path / "cgroup" / "job", V2, limit, used, stat)
    assert free(tmp_path, "0::/job\n") == expected


def test_a_group_around_may_leave_less(tmp_path: Path) -> None:
    group(tmp_path / "cgroup" / "slice", V2, 9000, 8000)
    group(tmp_path / "cgroup" / "slice" / "job", V2, 5000, 3000)
    group(tmp_path / "cgroup" / "slice" / "job" / "step", V2, "max", 3000)
    group(tmp_path / "cgroup" / "other", V2, 10, 10)
    assert free(tmp_path, "0::/slice/job/step\n") == 1000


@pytest.mark.parametrize("path", ["/", "/docker/1234", "/../outside"])
def test_the_own_group_of_a_container_is_the_outermost(tmp_path: Path, path: str) -> None:
    group(tmp_path / "cgroup", V2, 5000, 3000)
    assert free(tmp_path, f"0::{path}\n") == 2000


def test_version_1(tmp_path: Path) -> None:
    memory = tmp_path / "cgroup" / "memory"
    group(memory, V1, 9223372036854771712, 8000)
    group(memory / "a:b", V1, 5000, 3000, "inactive_file 1\ntotal_inactive_file 400\n")
    group(tmp_path / "cgroup" / "cpu", V1, 10, 10)
    assert free(tmp_path, "9:name=systemd:/\n5:cpu,cpuacct:/\n4:memory:/a:b\n0::/\n") == 2400
    assert free(tmp_path, "4:hugetlb,memory:/a:b\n") == 2400
    assert free(tmp_path, "5:cpu,cpuacct:/a:b\n") == HOST
