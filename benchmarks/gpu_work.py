"""One model in training on a device: its steps and evaluations, timed, with their memory and their launches."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_profile import launches_of
from benchmarks.gpu_rows import FLOAT_AGAIN
from benchmarks.gpu_sizes import parameters_m
from datamodules.batch import Batch
from qat.models.ctc import CTCModule
from qat.models.optimizer import adamw, parameter_groups

WARMUP, STEPS = 3, 8
EVALUATION_LIMIT_S = 3.0  # a slower evaluation is repeated less often
LEARNING_RATE, WEIGHT_DECAY = 1e-6, 1e-2
GIGABYTE = 1e9


@dataclass
class Work:
    """A model in training.

    Args:
        module: on the device.
        device: where.
        index: of the next step.
        compile_s: seconds that its first steps took, where they compiled it.
    """

    module: CTCModule
    device: torch.device
    index: int = 0
    compile_s: float | None = None

    def __post_init__(self) -> None:
        groups = parameter_groups(self.module, WEIGHT_DECAY, LEARNING_RATE)
        self.optimizer = adamw(groups, LEARNING_RATE, may_fuse=True)

    def autocast(self) -> torch.autocast:
        """As `--trainer.precision bf16-mixed`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def step(self, batch: Batch) -> None:
        """Forward, loss, backward, optimiser; dropout and noise are those of the step's number, alike for all."""
        self.module.on_train_batch_start(batch, self.index)
        self.index += 1
        self.module.step_key.step = self.index
        with self.autocast():
            loss = self.module.transcript_loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> None:
        """Forward as in validation."""
        with self.autocast():
            self.module(batch.signal, batch.lengths)

    def times_ms(self, work: Callable[[Batch], None], batch: Batch, count: int) -> list[float]:
        """Milliseconds of each of `count` calls, one after another, on the device's own clock."""
        if self.device.type != "cuda":
            marks = [time.perf_counter()]
            for _ in range(count):
                work(batch)
                marks.append(time.perf_counter())
            return [1000 * (end - start) for start, end in zip(marks, marks[1:], strict=False)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            work(batch)
            event.record()
        synchronize(self.device)
        return [start.elapsed_time(end) for start, end in zip(events, events[1:], strict=False)]


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gb(device: torch.device) -> float | None:
    """Most memory in use since `reset_peak`; None where it is not counted."""
    return torch.cuda.max_memory_allocated(device) / GIGABYTE if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    """Count the peak anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def training_values(work: Work, batch: Batch) -> dict[str, Any]:
    """Time and memory of a step; the model has made its first steps."""
    reset_peak(work.device)
    times = work.times_ms(work.step, batch, STEPS)
    return {
        "step_ms": statistics.median(times),
        "peak_memory_gb": peak_gb(work.device),
        "step_times_ms": [round(item, 2) for item in times],
    }


def profiled(work: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Launches of `work`, and the time of its kernels; None where the machine refuses its profiler."""
    try:
        launches, kernel_ms = launches_of(work, device)
    except (RuntimeError, ValueError) as error:  # refused, or a trace that cannot be read
        print(f"no profile: {error}", file=sys.stderr)
        launches, kernel_ms = None, None
    return {"launches": launches, "kernel_ms": kernel_ms}


def evaluation_values(work: Work, batch: Batch) -> dict[str, Any]:
    """Time and memory of an evaluation without gradient."""
    work.module.eval()
    work.times_ms(work.evaluate, batch, 1)
    free_memory(work.device)
    reset_peak(work.device)
    first = work.times_ms(work.evaluate, batch, 1)[0]
    repeats = min(STEPS, max(1, int(1000 * EVALUATION_LIMIT_S / first)))
    times = work.times_ms(work.evaluate, batch, repeats)
    work.module.train()
    return {"evaluation_ms": statistics.median(times), "evaluation_peak_memory_gb": peak_gb(work.device)}


def measure(work: Work, batch: Batch, variant: str) -> dict[str, Any]:
    """All that a row says of a variant on a batch: of a compiled one no evaluation, of `FLOAT_AGAIN` the step alone."""
    work.times_ms(work.step, batch, WARMUP)
    values = {**training_values(work, batch), "parameters_m": round(parameters_m(work.module), 1)}
    if variant != FLOAT_AGAIN:
        values |= profiled(lambda: work.step(batch), work.device)
    if work.module.compiled is not None:
        values |= {"compile_s": work.compile_s, "compiled": work.module.compiled.stop_()}
    elif variant != FLOAT_AGAIN:
        values |= evaluation_values(work, batch)
    return values
