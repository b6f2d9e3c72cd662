"""Launches are counted from the profiler's trace."""

from __future__ import annotations

import json

import torch

from benchmarks.gpu_profile import ON_GPU, counted, launches_of


def test_kernels_copies_and_fills_count_and_nothing_else() -> None:
    events = [
        {"cat": "kernel", "dur": 1500.0},
        {"cat": "gpu_memcpy", "dur": 500},
        {"cat": "cuda_runtime"},
        {},
    ]
    assert counted(json.dumps({"traceEvents": events}), ON_GPU) == (2, 2.0)


def test_a_cpu_counts_operators() -> None:
    launches, kernel_ms = launches_of(lambda: torch.zeros(3).add_(1), torch.device("cpu"))
    assert launches is not None and launches >= 2 and kernel_ms is not None and kernel_ms > 0
    assert launches_of(lambda: None, torch.device("cpu")) == (None, None)
