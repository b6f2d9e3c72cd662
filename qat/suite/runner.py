"""Runs every row of a suite, one process each; finished rows are kept, so it can be stopped at any time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from qat.report.cells import number
from qat.suite.jobs import Job, clean_folder, last_line, pid_file, prepare_folder
from qat.suite.spec import ROOT
from qat.suite.store import Results
from qat.system.errors import UserError

REFUSED = 2  # exit status of train.py for what the user, or here an older version, got wrong


class Runner:
    """Runs the jobs that are not done, several at a time.

    Args:
        results: kept after every run.
        parallel: processes at a time; the cores are shared out among them.
    """

    def __init__(self, results: Results, parallel: int) -> None:
        self.results, self.parallel = results, parallel
        self.lock = threading.Lock()
        self.children: set[subprocess.Popen[str]] = set()
        self.stopping = False
        self.all_wait = threading.Event()

    def run(self, jobs: Sequence[Job]) -> int:
        """Run what is missing; the number of failures. A signal stops the children and ends the suite.

        Raises:
            KeyboardInterrupt: it was a signal, after all children have ended.
        """
        missing = [job for job in jobs if not self.results.done(job)]
        print(f"suite: {len(jobs)} runs, {len(jobs) - len(missing)} done already", flush=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        started, finished, failures = time.time(), 0, 0
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting: set[Future[str]] = set()
            try:
                waiting = {pool.submit(self.run_when_all_wait, job) for job in missing}
                self.all_wait.set()
                while waiting:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for item in ready:
                        finished += 1
                        line = item.result()
                        failures += line.startswith("failed")
                        left = (time.time() - started) / finished * len(waiting) / 60
                        print(f"[{finished}/{len(missing)}] {line}; about {left:.0f} min left", flush=True)
            except KeyboardInterrupt:
                self.stop(waiting)
                raise KeyboardInterrupt("suite: stopped; run it again to resume") from None
        return failures

    def stop(self, waiting: Iterable[Future[str]]) -> None:
        """End children and what was not started."""
        self.stopping = True
        self.all_wait.set()
        for item in waiting:
            item.cancel()
        for child in list(self.children):
            child.terminate()

    def run_when_all_wait(self, job: Job) -> str:
        """`run_job`, but no child before all threads are known: a signal in between would end none of them."""
        self.all_wait.wait()
        return self.run_job(job)

    def run_job(self, job: Job) -> str:
        """Run one job in a process of its own and store its result; one line about it."""
        if self.stopping:
            return f"{job.id}: not started"
        started = time.time()
        log = job.folder.with_suffix(".log")
        flags = prepare_folder(job)
        code = self.run_child(job, flags, log)
        if code == REFUSED and flags and not self.stopping:  # an older version left it half-made: start again
            shutil.rmtree(job.folder)
            code = self.run_child(job, [], log)
        minutes = (time.time() - started) / 60
        if self.stopping:
            return f"{job.id}: stopped"
        with self.lock:
            try:
                if code:
                    raise UserError(last_line(log) or f"exit status {code}")
                rows = self.results.add(job, minutes)
            except (UserError, OSError, KeyError, IndexError) as error:
                self.results.fail(job, str(error)[:300], minutes)
                self.results.save()
                return f"failed: {job.id}: {str(error)[:200]}"
            self.results.save()
        clean_folder(job.folder)
        first = rows[0]
        wer, gap = number(first, "wer"), number(first, "delta_wer_vs_float.mean", "{:+.2f}")
        return f"{job.id}: {first.split} WER {wer} % ({gap}), {minutes:.1f} min"

    def run_child(self, job: Job, flags: Sequence[str], log: Path) -> int:
        """Run the command of a job in a process of its own; its exit status."""
        cores = os.cpu_count() or 1
        environment = {"OMP_NUM_THREADS": str(max(1, cores // self.parallel)), **os.environ}  # a set one wins
        with log.open("w") as output:
            child = subprocess.Popen(
                [sys.executable, *job.command, *flags],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.children.add(child)
            if self.stopping:  # `stop` may have been past it
                child.terminate()
            pid_file(job).write_text(str(child.pid))
            code = child.wait()
            self.children.discard(child)
        pid_file(job).unlink(missing_ok=True)
        return code
