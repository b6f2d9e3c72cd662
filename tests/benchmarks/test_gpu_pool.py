"""Cases run side by side, go on after a failure, wait for what they need, and stop when the time is up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from benchmarks.gpu_cases import Case, Command, Place
from benchmarks.gpu_pool import Pool
from benchmarks.gpu_rows import FAILED, NOT_RUN, OUT_OF_TIME, PASSED, Row

SLEEP = "import time; time.sleep(30)"


def python(program: str, status: int = 0, sees_gpu: bool = True) -> Command:
    return Command(("-c", program), sees_gpu, status)


def run(
    cases: list[Case], folder: Path, seconds: float = 60.0, slots: int = 4, limit_s: float = 60.0
) -> dict[str, Row]:
    rows: list[Row] = []
    Pool(Place(folder), time.time() + seconds, slots, rows.append, limit_s).run(cases)
    assert len(rows) == len(cases)
    return {row["case"]: row for row in rows}


def test_a_failure_stops_nothing_else_and_keeps_the_end_of_its_output(tmp_path: Path) -> None:
    rows = run(
        [
            Case("a", "good", (python("print('values {\"largest\": 0.5}')"), python("print(1)"))),
            Case("a", "bad", (python("raise ValueError('no such kernel')"), python("print(1)"))),
            Case("a", "killed", (python("import os; os.kill(os.getpid(), 9)", status=-9),)),
            Case("a", "not killed", (python("print(1)", status=-9),)),
            Case("a", "no report", (python("print(1)"),), report=tmp_path / "run"),
            Case("a", "elsewhere", (), not_run="one GPU"),
        ],
        tmp_path,
    )
    assert {name: row["status"] for name, row in rows.items()} == {
        **{"good": PASSED, "bad": FAILED, "killed": PASSED, "not killed": FAILED, "no report": FAILED},
        "elsewhere": NOT_RUN,
    }
    assert rows["good"]["largest"] == 0.5 and rows["elsewhere"]["note"] == "one GPU"
    assert rows["bad"]["note"].splitlines()[-1] == "ValueError: no such kernel"
    assert "is not there" in rows["no report"]["note"]


def test_a_case_runs_after_those_that_it_needs_and_only_if_they_have_passed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    rows = run(
        [
            Case("a", "reads", (python(f"open({str(made)!r})"),), needs=("writes",)),
            Case("a", "writes", (python(f"import time; time.sleep(0.2); open({str(made)!r}, 'w')"),)),
            Case("a", "fails", (python("1 / 0"),)),
            Case("a", "in vain", (python("print(1)"),), needs=("writes", "fails")),
            Case("a", "alone", (python("print(1)"),), needs=("another",)),
        ],
        tmp_path,
        slots=1,
    )
    assert rows["reads"]["status"] == rows["writes"]["status"] == PASSED
    assert (rows["in vain"]["status"], rows["alone"]["status"]) == (NOT_RUN, NOT_RUN)
    assert "'fails', which has not passed" in rows["in vain"]["note"]
    assert "'another', which is not run here" in rows["alone"]["note"]


def test_when_the_time_is_up_nothing_runs_any_more(tmp_path: Path) -> None:
    started = time.time()
    rows = run([Case("a", f"{n}", (python(SLEEP),)) for n in range(3)], tmp_path, seconds=0.3, slots=1)
    assert time.time() - started < 10
    assert all(row["status"] == NOT_RUN and row["note"].startswith(OUT_OF_TIME) for row in rows.values())


def test_a_command_that_hangs_has_failed(tmp_path: Path) -> None:
    case = Case("a", "hangs", (python(f"print('here', flush=True); {SLEEP}"),))
    row = run([case], tmp_path, limit_s=0.5)["hangs"]
    assert row["status"] == FAILED and row["note"].endswith("here") and "still running" in row["note"]


def test_a_gpu_is_hidden_from_commands_that_are_to_see_none(tmp_path: Path) -> None:
    program = "import os; assert os.environ['CUDA_VISIBLE_DEVICES'] == ''"
    assert (
        run([Case("a", "blind", (python(program, sees_gpu=False),))], tmp_path)["blind"]["status"] == PASSED
    )


def test_an_interruption_stops_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Row] = []
    pool = Pool(Place(tmp_path), time.time() + 60, 1, rows.append, 60.0)
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        while not pool.running:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        pool.run([Case("a", str(number), (python(SLEEP),)) for number in range(2)])
    started = time.time()
    for thread in set(threading.enumerate()) - before:
        join(thread)
    assert time.time() - started < 10 and not pool.running
    assert [row["status"] for row in rows] == [NOT_RUN] * 2, "what was stopped says nothing of the code"
