"""Measures training steps and evaluation of the models of `benchmarks.gpu_sizes`; `benchmarks.gpu` starts it.

It writes a line before and after each measurement, so that what starts it loses nothing when a kernel takes the process
down. bfloat16 autocast, float32 weights, fused AdamW; each variant is alone in the GPU's memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_profile import launches_of
from benchmarks.gpu_rows import FAILED, MEASURED, NOT_RUN, OUT_OF_TIME, Row, step_row
from benchmarks.gpu_sizes import (
    COMPILED,
    RECIPES,
    Size,
    batch_name,
    batch_of,
    parameters_m,
    sizes,
    variant_of,
)
from datamodules.batch import Batch
from qat.models.ctc import CTCModule
from qat.models.optimizer import parameter_groups

BEGIN, ROW, READY = "begin ", "row ", "ready"  # of lines to the program that started this one
WARMUP, STEPS = 3, 8
EVALUATION_LIMIT_S = 3.0  # a slower evaluation is repeated less often
LOST = 3  # exit status: the GPU answers no more, start again
LEARNING_RATE = 1e-6
GIGABYTE = 1e9


@dataclass
class Work:
    """A model in training.

    Args:
        module: on the device.
        device: where.
        index: of the next step.
    """

    module: CTCModule
    device: torch.device
    index: int = 0

    def __post_init__(self) -> None:
        groups = parameter_groups(self.module, 0.01, LEARNING_RATE)
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=fused)

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
    """Time, memory and launches of a step; the model has made its first steps."""
    reset_peak(work.device)
    times = work.times_ms(work.step, batch, STEPS)
    peak = peak_gb(work.device)
    try:
        launches, kernel_ms = launches_of(lambda: work.step(batch), work.device)
    except RuntimeError as error:  # a machine may refuse its profiler, and still has a time
        print(f"no profile: {error}", file=sys.stderr)
        launches, kernel_ms = None, None
    return {
        "step_ms": statistics.median(times),
        "peak_memory_gb": peak,
        "launches": launches,
        "kernel_ms": kernel_ms,
        "step_times_ms": [round(item, 2) for item in times],
    }


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


def measure(work: Work, batch: Batch, evaluated: bool) -> dict[str, Any]:
    """All that a row says of a model on a batch."""
    work.times_ms(work.step, batch, WARMUP)
    values = {**training_values(work, batch), "parameters_m": round(parameters_m(work.module), 1)}
    return {**values, **evaluation_values(work, batch)} if evaluated else values


def attempt(size: Size, variant: str, options: argparse.Namespace, source: Any) -> Iterator[Row]:
    """Rows of a variant, one for each batch; a failure, out of memory included, is a row as well.

    Args:
        size: of the model.
        variant: of its training.
        options: of the command line.
        source: gives the `Work`.
    """
    device = torch.device(options.device)
    work: Work | None = None
    for shape in size.batches:
        name, started = batch_name(*shape), time.time()
        row = step_row(size.name, name, variant, NOT_RUN, note=OUT_OF_TIME)
        if started < options.until:
            try:
                work = work or source(size, variant)
                values = measure(work, batch_of(*shape, device), evaluated=variant not in COMPILED)
                row = step_row(size.name, name, variant, MEASURED, time.time() - started, **values)
            except Exception:  # whatever it is, the other models are measured
                row = step_row(
                    size.name, name, variant, FAILED, time.time() - started, traceback.format_exc()
                )
        yield row
        free_memory(device)
    del work
    free_memory(device)


def plain_work(options: argparse.Namespace) -> Callable[[Size, str], Work]:
    """Builds the float model of a size once, and variants of it."""
    device, built = torch.device(options.device), dict[str, CTCModule]()

    def source(size: Size, variant: str) -> Work:
        if size.name not in built:
            built.clear()
            built[size.name] = size.build()
        return Work(variant_of(built[size.name], variant, device), device)

    return source


def compiled_work(jobs: list[tuple[Size, str]], options: argparse.Namespace) -> Callable[[Size, str], Work]:
    """Compiles all variants now, on the batches that are measured later; a failure waits until it is asked for."""
    device, build = torch.device(options.device), plain_work(options)
    found: dict[tuple[str, str], Work | Exception] = {}
    for size, variant in jobs:
        try:
            work = build(size, variant)
            work.module.on_train_start()
            for shape in size.batches:
                work.times_ms(work.step, batch_of(*shape, device), WARMUP)
            found[size.name, variant] = work
        except Exception as error:
            found[size.name, variant] = error

    def source(size: Size, variant: str) -> Work:
        work = found.pop((size.name, variant))
        if isinstance(work, Exception):
            raise work
        return work

    return source


def say(kind: str, content: Any = "") -> None:
    """A line to the program that started this one."""
    print(kind + (json.dumps(content) if content != "" else ""), flush=True)


def lost(device: torch.device) -> bool:
    """Whether the GPU answers no more, as after a kernel that wrote where it must not."""
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", required=True, help="JSON list of [model, variant]")
    parser.add_argument(
        "--until", type=float, default=float("inf"), help="time.time() at which nothing new starts"
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--wait", action="store_true", help="get ready, then wait for a line on standard input"
    )
    return parser.parse_args()


def main() -> None:
    """Measure all jobs."""
    options = arguments()
    by_name = {size.name: size for size in sizes(options.tiny)}
    jobs = [(by_name[model], variant) for model, variant in json.loads(options.jobs)]
    compiles = any(variant in COMPILED for _, variant in jobs)
    unknown = [variant for _, variant in jobs if variant not in (COMPILED if compiles else RECIPES)]
    if unknown:
        raise SystemExit(
            f"--jobs: {unknown[0]!r} must be one of {', '.join(COMPILED if compiles else RECIPES)}"
        )
    source = compiled_work(jobs, options) if compiles else plain_work(options)
    say(READY)
    if options.wait:
        sys.stdin.readline()
    for size, variant in jobs:
        say(BEGIN, [size.name, variant, [batch_name(*shape) for shape in size.batches]])
        for row in attempt(size, variant, options, source):
            say(ROW, row)
        if lost(torch.device(options.device)):
            sys.exit(LOST)


if __name__ == "__main__":
    main()
