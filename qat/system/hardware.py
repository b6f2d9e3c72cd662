"""What this machine is, and which of its cores are idle."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path


@cache
def cpu_has_vnni() -> bool:
    """Whether u8 x s8 products add up without saturating on this CPU (x86 VNNI; Arm has no such trap)."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False  # unknown: the reduced range is right everywhere
    return "avx512_vnni" in words or "avx_vnni" in words


def idle_cores(count: int, watch_s: float = 0.2) -> list[int] | None:
    """The `count` cores of this process that idle most over `watch_s` seconds.

    None where the system does not pin processes, or there are not as many.
    """
    if not hasattr(os, "sched_setaffinity") or len(allowed := os.sched_getaffinity(0)) < count:
        return None
    before = idle_ticks()
    time.sleep(watch_s)
    idle = {core: ticks - before.get(core, 0) for core, ticks in idle_ticks().items()}
    return sorted(allowed, key=lambda core: (-idle.get(core, 0), core))[:count]


def idle_ticks() -> dict[int, int]:
    """Core -> ticks that it has idled since the machine started; empty where Linux does not tell."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu") and line[3].isdigit()]
    return {int(row[0][3:]): int(row[4]) for row in rows}


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def gpu() -> str:
    """Name of this machine's first NVIDIA GPU; "GPU" where `nvidia-smi` does not tell."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    return lines[0].strip() if lines else "GPU"
