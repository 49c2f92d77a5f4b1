"""The machine as result files name it, and the device and the threads that a command is told to use."""

from __future__ import annotations

import json
import platform

import pytest
import torch
import transformers

import cofi_kernels
from cofi.errors import UserError
from cofi.machine import MAX_THREADS, machine_info, pick_device, set_threads, versions


def test_machine_is_described_as_result_files_want_it():
    info = machine_info()
    assert list(info) == ["device", "cpu", "threads", "torch", "triton", "driver", "commit", "date"]
    assert (info["device"], info["driver"]) == ("cpu", None)
    assert info["threads"] == torch.get_num_threads() and info["cpu"]
    json.dumps(info)


def test_versions_are_those_that_run():
    assert versions() == {
        "cofi_kernels": cofi_kernels.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def test_threads_are_set_and_too_many_are_refused():
    before = torch.get_num_threads()
    try:
        set_threads(before + 1)
        set_threads(None)
        assert torch.get_num_threads() == before + 1
        with pytest.raises(UserError, match=f"--threads must be at most {MAX_THREADS}, got {MAX_THREADS + 1}"):
            set_threads(MAX_THREADS + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_device_is_one_that_computes():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="--device must be auto, cpu or a GPU of this machine, got 'meta'"):
        pick_device("meta")
