"""Runs the cases of `benchmarks.gpu_cases`, several at a time, until all are done or the time is up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_cases import Case, Command, Place, wrong_report
from benchmarks.gpu_rows import FAILED, NOT_RUN, OUT_OF_TIME, PASSED, Row, check_row
from benchmarks.result_file import ROOT

TAIL_LINES = 25
COMPILE_THREADS = {"TORCHINDUCTOR_COMPILE_THREADS": "3"}  # several processes compile side by side
VALUES = "values "  # begins a line of output that holds what a command measured, as JSON


class Failed(Exception):
    """A command did not end as it must; the message is the end of its output."""


class OutOfTime(Exception):
    """The time was up before a command ended."""


@dataclass
class Pool:
    """Cases under way.

    Args:
        place: where they run.
        until: `time.time()` at which they stop.
        slots: commands at a time.
        add: takes the row of each finished case.
        limit_s: a command that runs longer hangs.
    """

    place: Place
    until: float
    slots: int
    add: Callable[[Row], None]
    limit_s: float
    passed: dict[str, bool] = field(default_factory=dict)
    ended: dict[str, threading.Event] = field(default_factory=dict)
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, cases: Sequence[Case]) -> None:
        """Run all; each waits in a thread of its own for those that it needs, then for a slot."""
        self.ended = {case.name: threading.Event() for case in cases}
        self.free = threading.Semaphore(self.slots)
        threads = [threading.Thread(target=self.run_case, args=(case,)) for case in cases]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:  # nothing runs any more, unless somebody has interrupted
            self.until = 0.0
            for process in list(self.running):
                stop(process)

    def run_case(self, case: Case) -> None:
        """Run one case and add its row, whatever happens."""
        row = check_row(case.group, case.name, NOT_RUN, note=case.not_run or OUT_OF_TIME)
        try:
            if not case.not_run:
                row = self.row_of(case)
        except Exception as error:  # an error here must not stop the other cases
            row = check_row(case.group, case.name, FAILED, note=f"{type(error).__name__}: {error}")
        finally:
            self.passed[case.name] = row["status"] == PASSED
            self.ended[case.name].set()
            self.add(row)

    def row_of(self, case: Case) -> Row:
        """The row of a case, after what it needs."""
        for name in case.needs:
            if name not in self.ended:
                return check_row(
                    case.group, case.name, NOT_RUN, note=f"needs {name!r}, which is not run here"
                )
            self.ended[name].wait()
            if not self.passed[name]:
                return check_row(case.group, case.name, NOT_RUN, note=f"needs {name!r}, which has not passed")
        if not self.free.acquire(timeout=max(0.0, self.until - time.time())):
            return check_row(case.group, case.name, NOT_RUN, note=OUT_OF_TIME)
        started = time.time()
        try:
            return self.judged(case, started)
        except (Failed, OutOfTime) as error:
            status = FAILED if isinstance(error, Failed) else NOT_RUN
            return check_row(case.group, case.name, status, time.time() - started, str(error))
        finally:
            self.free.release()

    def judged(self, case: Case, started: float) -> Row:
        """The row of a case whose commands have run.

        Raises:
            Failed: a command, or the report that it should have left.
            OutOfTime: before the last command ended.
        """
        values: dict[str, Any] = {}
        log = self.place.folder / f"{case.name.replace(' ', '-')}.log"
        for command in case.commands:
            values |= self.run_command(command, log)
        if case.report is not None and (wrong := wrong_report(case.report, case.quantized)):
            raise Failed(wrong)
        return check_row(case.group, case.name, PASSED, time.time() - started, **values)

    def run_command(self, command: Command, log: Path) -> dict[str, Any]:
        """Run a command to its end; returns what it says that it measured.

        Args:
            command: with the status that it must end with.
            log: file that takes its output.

        Raises:
            Failed: another status, or it ran longer than `limit_s`.
            OutOfTime: it was stopped.
        """
        left = self.until - time.time()
        if left <= 0:
            raise OutOfTime(OUT_OF_TIME)
        limit = min(left, self.limit_s)
        with log.open("w") as output:
            process = start(command, output)
            self.running.add(process)
            try:
                status = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                stop(process)
                if limit < self.limit_s:
                    raise OutOfTime(f"{OUT_OF_TIME}: stopped after {limit:.0f} s") from None
                raise Failed(f"still running after {limit:.0f} s\n{tail(log)}") from None
            finally:
                stop(process)  # what it may have left running
                self.running.discard(process)
        if (
            status != command.status and time.time() >= self.until
        ):  # somebody has interrupted, and `run` stopped it
            raise OutOfTime(f"{OUT_OF_TIME}: stopped")
        if status != command.status:
            raise Failed(f"exit status {status} of {' '.join(command.arguments[:4])} ...\n{tail(log)}")
        return values_in(log.read_text(errors="replace"))


def start(command: Command, output: Any) -> subprocess.Popen[bytes]:
    """Start a command in the repository's root, with one thread and a process group of its own."""
    environment = {**os.environ, **COMPILE_THREADS, "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled"}
    if not command.sees_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [sys.executable, *command.arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that `start` made, and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path) -> str:
    """The end of a command's output."""
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:])


def values_in(output: str) -> dict[str, Any]:
    """What the lines of an output say that was measured.

    >>> values_in('some words\\nvalues {"largest": 0.5}\\n')
    {'largest': 0.5}
    """
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(VALUES):
            found |= json.loads(line.removeprefix(VALUES))
    return found
