"""Starts `benchmarks.gpu_steps` and reads its rows; starts it again where a kernel has taken it down."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_pool import stop, tail
from benchmarks.gpu_rows import FAILED, NOT_RUN, OUT_OF_TIME, Row, step_row
from benchmarks.result_file import ROOT

BEGIN, ROW = "begin ", "row "  # of its lines
Job = tuple[str, str]


@dataclass
class Measurement:
    """Jobs that one process measures after another.

    Args:
        jobs: (model, variant) each.
        device: cuda or cpu.
        until: `time.time()` at which nothing new starts.
        log: file that takes its messages.
        add: takes each row.
        tiny: for a rehearsal.
    """

    jobs: Sequence[Job]
    device: str
    until: float
    log: Path
    add: Callable[[Row], None]
    tiny: bool = False
    process: subprocess.Popen[bytes] | None = None
    begun: list[Any] = field(default_factory=list)
    rows: int = 0

    def start(self, jobs: Sequence[Job] | None = None) -> None:
        """Start the process, which imports and builds what it needs and then waits."""
        command = [sys.executable, "-m", "benchmarks.gpu_steps", "--wait", "--device", self.device]
        command += ["--jobs", json.dumps(self.jobs if jobs is None else jobs), "--until", str(self.until)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *(["--tiny"] if self.tiny else [])],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def run(self, until: float) -> None:
        """Let it measure until a time; every job ends with a row, whatever happens.

        Args:
            until: `time.time()` at which it is stopped.
        """
        waiting = list(self.jobs)
        why = (NOT_RUN, OUT_OF_TIME)
        while waiting and time.time() < until:
            if self.process is None:
                self.start(waiting)
            status = self.read(until)
            if status == 0:
                return
            why = (FAILED, f"exit status {status}\n{tail(self.log)}")
            if time.time() >= until:
                why = (NOT_RUN, f"{OUT_OF_TIME}: stopped")
            if not self.begun:  # it has not come to its first job, and would not the next time
                break
            self.add_missing(*why)
            waiting = waiting[waiting.index((self.begun[0], self.begun[1])) + 1 :]
        if time.time() >= until:
            why = (NOT_RUN, OUT_OF_TIME)
        for model, variant in waiting:
            self.add(step_row(model, "all", variant, why[0], note=why[1]))

    def read(self, until: float) -> int:
        """Read rows to the end of the process, which is stopped at a time; returns its exit status."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        self.begun, self.rows = [], 0
        timer = threading.Timer(max(0.0, until - time.time()), stop, [process])
        timer.start()
        try:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        except OSError:
            pass  # it has ended; its status says how
        for line in map(bytes.decode, process.stdout):
            if line.startswith(BEGIN):
                self.begun, self.rows = json.loads(line.removeprefix(BEGIN)), 0
            elif line.startswith(ROW):
                self.rows += 1
                self.add(json.loads(line.removeprefix(ROW)))
        status = process.wait()
        timer.cancel()
        self.process = None
        return status

    def add_missing(self, status: str, note: str) -> None:
        """Rows of the batches that the job under way has not come to."""
        model, variant, batches = self.begun
        for batch in batches[self.rows :]:
            self.add(step_row(model, batch, variant, status, note=note))

    def end(self) -> None:
        """Stop the process where it still runs."""
        if self.process is not None:
            stop(self.process)
            self.process = None
