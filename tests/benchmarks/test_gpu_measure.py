"""The process that measures may die at any moment: every job ends with a row, and the others are measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu_measure import BEGIN, READY, ROW, Job, Measurement, run_together
from benchmarks.gpu_rows import FAILED, MEASURED, NOT_RUN, OUT_OF_TIME, Row, step_row

PROGRAM = """
import json, sys, time
if "never ready" in sys.argv[1]:
    time.sleep(30)
print({ready!r}, flush=True)
sys.stdin.readline()
for model, variant in json.loads(sys.argv[1]):
    if variant == "imports badly":
        raise ImportError("no such module")
    print({begin!r} + json.dumps([model, variant, ["8 x 12 s", "32 x 12 s"]]), flush=True)
    if variant == "slow":
        time.sleep(30)
    for batch in ("8 x 12 s", "32 x 12 s"):
        print({row!r} + json.dumps({{**{made!r}, "model": model, "variant": variant, "batch": batch}}), flush=True)
        if variant == "dies":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if variant == "lost" and batch == "32 x 12 s":
            sys.exit(3)
""".format(begin=BEGIN, row=ROW, ready=READY, made=step_row("", "", "", MEASURED))


class Fake(Measurement):
    """Runs `PROGRAM` in place of `benchmarks.gpu_steps`."""

    starts = 0

    def start(self, jobs: Sequence[Job] | None = None) -> None:
        self.starts += 1
        self.begin([sys.executable, "-c", PROGRAM, json.dumps(self.jobs if jobs is None else jobs)])


Found = list[tuple[str, str, str]]


def measured(jobs: list[str], folder: Path, seconds: float = 60.0) -> tuple[Fake, Found, list[Row]]:
    rows: list[Row] = []
    until = time.time() + seconds
    measurement = Fake([("base", variant) for variant in jobs], "cpu", until, folder / "log", rows.append)
    measurement.start()
    measurement.run(until)
    measurement.end()
    return measurement, [(row["variant"], row["batch"], row["status"]) for row in rows], rows


def test_all_rows_come_in_order(tmp_path: Path) -> None:
    measurement, found, _ = measured(["float", "stochastic"], tmp_path)
    assert found == [
        (variant, batch, MEASURED)
        for variant in ("float", "stochastic")
        for batch in ("8 x 12 s", "32 x 12 s")
    ]
    assert measurement.starts == 1


@pytest.mark.parametrize("variant", ["dies", "lost"])
def test_it_starts_again_after_a_death_with_the_jobs_that_are_left(tmp_path: Path, variant: str) -> None:
    measurement, found, rows = measured(["float", variant, "stochastic"], tmp_path)
    assert measurement.starts == 2
    assert found[2] == (variant, "8 x 12 s", MEASURED)
    assert found[3] == (variant, "32 x 12 s", FAILED if variant == "dies" else MEASURED)
    assert [status for *_, status in found[4:]] == [MEASURED, MEASURED]
    assert variant == "lost" or rows[3]["note"].endswith("illegal memory access was encountered")


def test_where_it_cannot_start_every_job_says_why(tmp_path: Path) -> None:
    measurement, found, rows = measured(["imports badly", "float"], tmp_path)
    assert measurement.starts == 1
    assert [status for *_, status in found] == [FAILED, FAILED]
    assert all(row["note"].endswith("ImportError: no such module") for row in rows)


def test_what_the_time_is_too_short_for_is_not_run(tmp_path: Path) -> None:
    started = time.time()
    _, found, rows = measured(["float", "slow", "stochastic"], tmp_path, seconds=1.0)
    assert time.time() - started < 15
    assert [status for *_, status in found] == [MEASURED, MEASURED, NOT_RUN, NOT_RUN, NOT_RUN]
    assert all(row["note"].startswith(OUT_OF_TIME) for row in rows[2:])


def test_of_several_those_that_are_not_ready_in_time_are_given_up(tmp_path: Path) -> None:
    rows: list[Row] = []
    until = time.time() + 60
    several = [
        Fake([("base", name)], "cpu", until, tmp_path / "log", rows.append)
        for name in ("float", "never ready")
    ]
    for measurement in several:
        measurement.start()
    run_together(several, time.time() + 1, until)
    assert [(row["variant"], row["status"]) for row in rows] == [
        ("float", MEASURED),
        ("float", MEASURED),
        ("never ready", NOT_RUN),
    ]
    assert all(measurement.process is None for measurement in several)
