"""Starts `benchmarks.gpu_steps` and reads its rows; starts it again where a kernel has taken it down."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_pool import COMPILE_THREADS, stop, tail
from benchmarks.gpu_rows import FAILED, NOT_RUN, OUT_OF_TIME, Row, step_row
from benchmarks.result_file import ROOT

BEGIN, ROW, READY = "begin ", "row ", "ready"  # of its lines
Job = tuple[str, str]


@dataclass(eq=False)
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
    ready: threading.Event = field(default_factory=threading.Event)
    begun: list[Any] = field(default_factory=list)
    rows: int = 0

    def start(self, jobs: Sequence[Job] | None = None) -> None:
        """Start the process, which imports, builds and compiles what it needs and then waits."""
        command = [sys.executable, "-m", "benchmarks.gpu_steps", "--wait", "--device", self.device]
        command += ["--jobs", json.dumps(self.jobs if jobs is None else jobs), "--until", str(self.until)]
        self.begin([*command, *(["--tiny"] if self.tiny else [])])

    def begin(self, command: Sequence[str]) -> None:
        """Start a command and read what it says."""
        self.begun, self.rows = [], 0
        self.ready.clear()
        with self.log.open("a") as log:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **COMPILE_THREADS},
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                start_new_session=True,
            )
        self.reader = threading.Thread(target=self.read, args=(self.process,))
        self.reader.start()

    def read(self, process: subprocess.Popen[bytes]) -> None:
        """Read to the end of the process."""
        assert process.stdout is not None
        for line in map(bytes.decode, process.stdout):
            if line.startswith(READY):
                self.ready.set()
            elif line.startswith(BEGIN):
                self.begun, self.rows = json.loads(line.removeprefix(BEGIN)), 0
            elif line.startswith(ROW):
                self.rows += 1
                self.add(json.loads(line.removeprefix(ROW)))
        self.ready.set()  # nothing more will come

    def is_ready(self, until: float) -> bool:
        """Whether it could measure at once; waits for that until a time."""
        return self.ready.wait(max(0.0, until - time.time()))

    def run(self, until: float) -> None:
        """Let it measure until a time; every job ends with a row, whatever happens.

        Args:
            until: `time.time()` at which it is stopped.
        """
        waiting = list(self.jobs)
        while waiting and time.time() < until:
            if self.process is None:
                self.start(waiting)
            status = self.finish(until)
            if status == 0:
                return
            why = (FAILED, f"exit status {status}\n{tail(self.log)}")
            if time.time() >= until:
                why = (NOT_RUN, f"{OUT_OF_TIME}: stopped")
            if not self.begun:  # it has not come to its first job, and would not the next time
                break
            self.add_missing(*why)
            waiting = waiting[waiting.index((self.begun[0], self.begun[1])) + 1 :]
        self.end()
        if time.time() >= until:
            why = (NOT_RUN, OUT_OF_TIME)
        for model, variant in waiting:
            self.add(step_row(model, "all", variant, why[0], note=why[1]))

    def finish(self, until: float) -> int:
        """Let the process go on to its end, at which it is stopped at the latest; returns its exit status."""
        process = self.process
        assert process is not None and process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; its status says how
            process.stdin.write(b"go\n")
            process.stdin.flush()
        self.reader.join(max(0.0, until - time.time()))
        if self.reader.is_alive():
            stop(process)
            self.reader.join()
        self.process = None
        return process.wait()

    def add_missing(self, status: str, note: str) -> None:
        """Rows of the batches that the job under way has not come to."""
        model, variant, batches = self.begun
        for batch in batches[self.rows :]:
            self.add(step_row(model, batch, variant, status, note=note))

    def end(self) -> None:
        """Stop the process where it still runs."""
        if self.process is not None:
            stop(self.process)
            self.reader.join()
            self.process = None


def run_together(measurements: Sequence[Measurement], ready_until: float, until: float) -> None:
    """Let several that are getting ready side by side measure one after another, none while another gets ready.

    Args:
        measurements: started.
        ready_until: `time.time()` at which those that are not ready are given up.
        until: at which all are stopped.
    """
    late = [item for item in measurements if not item.is_ready(ready_until)]
    for item in late:
        item.end()
    for item in measurements:
        item.run(0.0 if item in late else until)
