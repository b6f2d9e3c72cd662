"""Measures rows of `benchmarks.peers`, one after the other, in a process of its own: `python -m benchmarks.peers_run`.

Packages that patch PyTorch do not meet there, and one that ends its process ends no other row. Each row is a line of
JSON in a file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers_cases import BUILDERS, PACKAGES, Case, cases_of
from benchmarks.peers_speed import ROUNDS, speed
from benchmarks.peers_subject import Subject, shipped
from benchmarks.result_file import versions
from qat.evaluation.graphs import size_mb
from qat.system.errors import first_line
from qat.system.hardware import processor

MEASURED, FAILED, MISSING = "measured", "failed", "not installed"
LONGEST_NOTE = 200  # characters
FLAGS = ("fma", "avx", "amx", "f16c")  # how the processor flags begin that decide the kernels
Row = dict[str, Any]


def head(case: Case, kind: str) -> Row:
    """What every row says, measured or not."""
    return {
        "model": kind,
        "peer": case.peer,
        "setting": case.setting,
        "bits": case.bits,
        "fake": case.fake,
        "command": f"python -m benchmarks.peers --models {kind} --only '{case.name}'",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": processor_flags(),
        "versions": versions(("torch", "onnxruntime", *PACKAGES[case.peer])),
    }


def processor_flags() -> list[str]:
    """Those that decide which kernels run."""
    try:
        words = Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return []
    return sorted({word for word in words if word.startswith(FLAGS)})


def unmeasured(case: Case, kind: str, status: str, note: str) -> Row:
    """The row of what could not be measured, with the reason in one line."""
    note = " ".join(note.split())
    return {**head(case, kind), "status": status, "note": note[:LONGEST_NOTE]}


def measure(case: Case, subject: Subject, rounds: int = ROUNDS) -> Row:
    """The row of a case, whatever happens."""
    if case.missing:
        note = f"{case.missing} is not installed: pip install 'speech-qat[peers]'"
        return unmeasured(case, subject.kind, MISSING, note)
    try:
        return measured(case, subject, rounds)
    except Exception as error:  # a peer's error must not stop the other rows
        traceback.print_exc()
        return unmeasured(
            case, subject.kind, FAILED, f"{type(error).__name__}: {first_line(error, LONGEST_NOTE)}"
        )


def say(what: str) -> None:
    """What is done, with the seconds of processor time until now."""
    print(f"  {what}, {time.process_time():.0f} s of processor time", file=sys.stderr, flush=True)


def measured(case: Case, subject: Subject, rounds: int) -> Row:
    """Quantize, transcribe all test sets, weigh and time the file."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        built = importlib.import_module(BUILDERS[case.peer]).build(subject, case.options, Path(folder))
        built_s = time.perf_counter() - started
        say("quantized")
        texts = subject.transcribe(built.recogniser)
        say("transcribed")
        scores = subject.score(texts)
        say("scored")
        timed = built.file is not None and built.engine
        return {
            **head(case, subject.kind),
            "status": MEASURED,
            "note": "",
            **scores,
            "size_mb": size_mb(built.file) if built.file is not None else None,
            "speed": speed(subject.float_file, built.file, built.engine, subject.timed_signals, rounds)
            if timed and built.file is not None
            else None,
            "calibrated_on": subject.calibrated_on,
            "quantize_s": round(built_s, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", nargs="+", required=True, help="names, in order")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="file that takes a line for each row")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = shipped(options.model, options.folder, options.quick)
    known = {case.name: case for case in cases_of(options.model)}
    for name in options.cases:
        print(f"{options.model}, {name}", file=sys.stderr, flush=True)
        row = measure(known[name], subject, rounds=1 if options.quick else ROUNDS)
        with options.rows.open("a") as file:
            print(json.dumps(row), file=file, flush=True)


if __name__ == "__main__":
    main()
