"""Does everything run on this GPU, and what does quantized training cost there?

`python -m benchmarks.gpu [--quick]` trains both mini models in every way, compares the GPU with the CPU, and measures
models of published size. It needs no network, takes 6 minutes at most (quick: 2) on one H100 with 16 cores, goes on
after a failure, writes `benchmarks/results/gpu.json` after every case, and exits with 1 if a check has failed (2 where
there is no GPU). `--rehearse` runs it on a CPU, with tiny models: that proves the program, and is written to another
file.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.gpu_cases import Place, cases
from benchmarks.gpu_measure import Job, Measurement, run_together
from benchmarks.gpu_page import related, tables
from benchmarks.gpu_pool import Pool
from benchmarks.gpu_rows import COMPILED, FAILED, LEARNED, NOT_RUN, PASSED, PATH, VARIANTS, Results, facts
from qat.system.hardware import processor

MODELS = ("wav2vec2-base", "crdnn", "wav2vec2-large")
QUICK_MODELS = MODELS[:2]
LIMIT_S = {False: 360.0, True: 120.0}  # quick or not
MEASURING_S = {False: 120.0, True: 50.0}  # of them, kept for the measurement of steps
COMPILING_S, COMPILED_S = 120.0, 30.0  # to compile while the checks run; after them
HANGS_S = 150.0  # a command that runs longer hangs
REHEARSAL_S = 10_000.0
NO_GPU = 2  # exit status


def plain_jobs(quick: bool) -> list[Job]:
    """What is measured, in order; a quick run comes to learned scales last."""
    if not quick:
        return [(model, variant) for model in MODELS for variant in VARIANTS]
    first = [(model, variant) for model in QUICK_MODELS for variant in VARIANTS if variant != LEARNED]
    return first + [(model, LEARNED) for model in QUICK_MODELS]


def compiled_jobs(quick: bool) -> list[Job]:
    """What is measured under `torch.compile`, in a process each; nothing in a quick run."""
    return [] if quick else [(MODELS[0], variant) for variant in COMPILED]


def driver() -> str | None:
    """Version of the GPU's driver; None where nobody says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip().splitlines()[0]


def new_results(options: argparse.Namespace) -> Results:
    """Results in their file, with the facts of this machine."""
    if options.rehearse:
        path = Path(tempfile.gettempdir()) / "gpu_rehearsal.json"
        return Results(facts(f"a rehearsal on {processor()}", None, options.commit), related, path)
    results = Results(facts(torch.cuda.get_device_name(0), driver(), options.commit), related)
    if options.update:
        results.keep(PATH)
    return results


def work(options: argparse.Namespace, results: Results, folder: Path) -> None:
    """Check and measure until all is done or the time is up.

    Steps are measured when the checks have ended, alone on the machine; what they need is imported and compiled before.
    """
    device = "cpu" if options.rehearse else "cuda"
    limit_s = REHEARSAL_S if options.rehearse else options.limit_s or LIMIT_S[options.quick]
    end = results.started + limit_s
    gpus = 2 if options.rehearse else torch.cuda.device_count()  # two processes are two GPUs to a rehearsal
    place = Place(folder, "cpu" if options.rehearse else "gpu", gpus, options.rehearse)
    jobs = [[job] for job in compiled_jobs(options.quick)] + [plain_jobs(options.quick)]
    measurements = [
        Measurement(own, device, end, folder / f"steps-{number}.log", results.add, options.rehearse)
        for number, own in enumerate(jobs if "steps" in options.parts else [])
    ]
    try:
        for measurement in measurements:
            measurement.start()
        if "checks" in options.parts:
            found = cases(place, options.quick)
            chosen = [case for case in found if any(text in case.name for text in options.only)]
            reserved = MEASURING_S[options.quick] if measurements else 0.0
            slots = max(2, (os.cpu_count() or 1) - 2)
            hangs_s = REHEARSAL_S if options.rehearse else HANGS_S
            Pool(place, end - reserved, slots, results.add, hangs_s).run(chosen)
        ready_until = max(time.time() + COMPILED_S, results.started + COMPILING_S)
        run_together(measurements[:-1], end if options.rehearse else min(end, ready_until), end)
        run_together(measurements[-1:], end, end)
    finally:
        for measurement in measurements:
            measurement.end()


def report(results: Results) -> int:
    """Print the tables and what came of it all; returns the exit status."""
    path = results.write()
    for text in tables(results.finish(results.rows)).values():
        print(f"\n{text}")
    counts = {status: results.count(status, "check") for status in (PASSED, FAILED, NOT_RUN)}
    missing = sum(results.count(status, "step") for status in (FAILED, NOT_RUN))
    print(
        f"\nchecks: {counts[PASSED]} passed, {counts[FAILED]} failed, {counts[NOT_RUN]} not run; "
        f"{missing} measurements are missing; wrote {path}"
    )
    return 1 if counts[FAILED] else 0


def terminated(number: int, frame: object) -> NoReturn:
    """Leave as at an error, which ends all processes that were started."""
    sys.exit(128 + number)


def main() -> None:
    """Check, measure, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, two models: 2 minutes at most")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on a CPU, to prove this program")
    parser.add_argument("--parts", nargs="+", choices=["checks", "steps"], default=["checks", "steps"])
    parser.add_argument("--commit", help="of this code, where it lies outside git")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="checks with this in their name"
    )
    parser.add_argument("--limit_s", type=float, help="seconds in all (default 360, quick 120)")
    parser.add_argument(
        "--update", action="store_true", help="keep the stored rows that this run does not measure again"
    )
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        print(
            "benchmarks.gpu: must run where PyTorch sees a GPU; try --rehearse on this machine",
            file=sys.stderr,
        )
        sys.exit(NO_GPU)
    signal.signal(signal.SIGTERM, terminated)
    results = new_results(options)
    with tempfile.TemporaryDirectory(prefix="speech-qat-gpu-", ignore_cleanup_errors=True) as folder:
        work(options, results, Path(folder))
    sys.exit(report(results))


if __name__ == "__main__":
    main()
