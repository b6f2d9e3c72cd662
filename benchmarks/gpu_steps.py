"""Measures training steps and evaluation of the models of `benchmarks.gpu_sizes`; `benchmarks.gpu` starts it.

It writes a line before and after each measurement, so that what starts it loses nothing when a kernel takes the process
down. bfloat16 autocast, float32 weights, fused AdamW; each variant is alone in the GPU's memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu_measure import BEGIN, READY, ROW
from benchmarks.gpu_rows import FAILED, MEASURED, NOT_RUN, OUT_OF_TIME, Row, step_row
from benchmarks.gpu_sizes import (
    COMPILED,
    RECIPES,
    Size,
    batch_name,
    batch_of,
    sizes,
    variant_of,
)
from benchmarks.gpu_work import WARMUP, Work, free_memory, measure, profiled, synchronize
from qat.models.ctc import CTCModule

LOST = 3  # exit status: the GPU answers no more, start again


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
                values = measure(work, batch_of(*shape, device), variant)
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
            built[size.name] = size.build()
        return Work(variant_of(built[size.name], variant, device), device)

    return source


def compiled_work(jobs: list[tuple[Size, str]], options: argparse.Namespace) -> Callable[[Size, str], Work]:
    """Compiles all variants now, on the batches that are measured later; a failure waits until it is asked for."""
    device, build = torch.device(options.device), plain_work(options)
    found: dict[tuple[str, str], Work | Exception] = {}
    for size, variant in jobs:
        started = time.time()
        try:
            work = build(size, variant)
            work.module.on_train_start()
            for shape in size.batches:
                work.times_ms(work.step, batch_of(*shape, device), WARMUP)
            work.compile_s = round(time.time() - started, 1)
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
    device = torch.device(options.device)
    profiled(
        lambda: torch.zeros(1, device=device), device
    )  # what a profiler leaves in the process, all times share
    for size, variant in jobs:
        say(BEGIN, [size.name, variant, [batch_name(*shape) for shape in size.batches]])
        for row in attempt(size, variant, options, source):
            say(ROW, row)
        if lost(device):
            sys.exit(LOST)


if __name__ == "__main__":
    main()
