"""What is read of this machine, also where the system tells little."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qat.system import hardware
from qat.system.hardware import cpu_has_vnni, gpu, idle_cores, idle_ticks, processor


def unreadable(*_: object, **__: object) -> str:
    raise OSError


@pytest.mark.parametrize(
    ("machine", "flags", "has"),
    [
        ("x86_64", "flags : sse avx512_vnni", True),
        ("x86_64", "flags : avx_vnni", True),
        ("x86_64", "flags : avx2", False),
        ("aarch64", "", True),
    ],
)
def test_vnni_is_read_from_the_flags(
    machine: str, flags: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: flags)
    assert cpu_has_vnni.__wrapped__() is has


def test_a_system_that_tells_nothing_has_a_reduced_range_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert cpu_has_vnni.__wrapped__() is False and idle_ticks() == {} and processor()


def test_the_idlest_cores_of_this_process_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([{0: 10, 1: 10, 2: 10}, {0: 11, 1: 30, 2: 20}])
    monkeypatch.setattr(hardware, "idle_ticks", lambda: next(ticks))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    assert idle_cores(2, watch_s=0.0) == [1, 2]
    assert idle_cores(4) is None


def test_a_gpu_has_the_name_that_its_driver_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu() == "GPU"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H100\n")
    tool.chmod(0o755)
    assert gpu() == "NVIDIA H200"
