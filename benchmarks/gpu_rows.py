"""What `benchmarks.gpu` keeps of each finished case, and the file that it rewrites after every one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.result_file import PACKAGES, RESULTS, save, versions
from qat.system.provenance import git_commit

PASSED, MEASURED, FAILED, NOT_RUN = "passed", "measured", "failed", "not run"
OUT_OF_TIME = "out of time"
FLOAT, FLOAT_AGAIN, LEARNED = "float", "float again", "learned scales"
VARIANTS = (
    FLOAT,
    "deterministic",
    "stochastic",
    LEARNED,
    FLOAT_AGAIN,
)  # of training, in the order of measurement
COMPILED = (f"compiled {FLOAT}", "compiled deterministic", "compiled stochastic")
LONGEST_NOTE = 2000  # characters
PATH = RESULTS / "gpu.json"
Row = dict[str, Any]


def check_row(group: str, case: str, status: str, seconds: float = 0.0, note: str = "", **values: Any) -> Row:
    """The row of a check: whether it passed, how long it took, why not, and what it measured."""
    return {"part": "check", "group": group, "case": case, **outcome(status, seconds, note), **values}


def step_row(
    model: str, batch: str, variant: str, status: str, seconds: float = 0.0, note: str = "", **values: Any
) -> Row:
    """The row of a measured model, batch and kind of training."""
    head = {"part": "step", "model": model, "batch": batch, "variant": variant}
    return {**head, **outcome(status, seconds, note), **values}


def outcome(status: str, seconds: float, note: str) -> Row:
    """What all rows have; of a long note the end, where a traceback says what is wrong."""
    return {"status": status, "seconds": round(seconds, 1), "note": note[-LONGEST_NOTE:]}


@dataclass
class Results:
    """Rows as they come, in a file that always holds all of them.

    Args:
        facts: what the file says besides its rows.
        finish: the rows as they are written; relates those of one model to each other.
        path: of the file.
        say: prints a line.
    """

    facts: dict[str, Any]
    finish: Callable[[list[Row]], list[Row]]
    path: Path = PATH
    say: Callable[[str], None] = partial(print, flush=True)
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, path: Path) -> None:
        """Begin with the rows of an earlier file, each with the commit that it was measured on."""
        stored = json.loads(path.read_text())
        self.rows = [{"git_commit": stored["git_commit"], **row} for row in stored["results"]]

    def add(self, row: Row) -> None:
        """Keep a row, write the file, and say so; several threads may call.

        It takes the place of one of an earlier file, unless it was not run.
        """
        with self.lock:
            earlier = [own for own in self.rows if "git_commit" in own and same_case(own, row)]
            if row["status"] != NOT_RUN or not earlier:
                self.rows = [own for own in self.rows if own not in earlier] + [row]
            self.write()
        name = row["case"] if row["part"] == "check" else f"{row['model']}, {row['batch']}: {row['variant']}"
        last = row["note"].strip().splitlines()[-1:] if row["status"] in (FAILED, NOT_RUN) else []
        self.say(": ".join([f"{row['status']:8} {row['seconds']:5.1f} s  {name}", *last]))

    def write(self) -> Path:
        """Write the file."""
        duration_s = round(time.time() - self.started, 1)
        return save("gpu", self.finish(self.rows), self.path, **self.facts, duration_s=duration_s)

    def count(self, status: str, part: str) -> int:
        """Rows of a part with a status."""
        return sum((row["status"], row["part"]) == (status, part) for row in self.rows)


def same_case(one: Row, other: Row) -> bool:
    """Whether two rows are of the same check or measurement."""
    keys = ("part", "case", "model", "batch", "variant")
    return all(one.get(key) == other.get(key) for key in keys)


def facts(device: str, driver: str | None, commit: str | None) -> dict[str, Any]:
    """What the file says of its machine and its code, at the start.

    Args:
        device: name of the GPU.
        driver: version of its driver.
        commit: of the code, where no git checkout says it; goes before what one says.
    """
    return {
        "device": device,
        "driver": driver,
        "versions": versions((*PACKAGES, "triton", "lightning")),
        "git_commit": commit or git_commit(),  # a copy of a working tree can lie on an older commit
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
