"""What a piece of work starts on the GPU, from PyTorch's profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace
ON_CPU = ("cpu_op",)


def launches_of(work: Callable[[], Any], device: torch.device) -> tuple[int | None, float | None]:
    """How many kernels, copies and fills `work` starts, and how many milliseconds they take together.

    Args:
        work: is called once.
        device: a GPU; on a CPU operators are counted, so that a rehearsal has something to count.

    Returns:
        None for both where the profiler saw nothing.
    """
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        work()
        if cuda:
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        launches, kernel_ms = counted(path.read_text(), ON_GPU if cuda else ON_CPU)
    return (launches, kernel_ms) if launches else (None, None)


def counted(trace: str, categories: tuple[str, ...]) -> tuple[int, float]:
    """Events of some categories in a trace, and their milliseconds.

    >>> counted('{"traceEvents": [{"cat": "kernel", "dur": 1500.0}, {"cat": "cpu_op", "dur": 9.0}, {}]}', ON_GPU)
    (1, 1.5)
    """
    events = [event for event in json.loads(trace)["traceEvents"] if event.get("cat") in categories]
    return len(events), sum(event.get("dur", 0.0) for event in events) / 1000
