"""Other quantizers beside ours: WER, size and speed of the shipped models, same files, same speech, same scorer.

`python -m benchmarks.peers [--models crdnn wav2vec2] [--only TEXT ...] [--out FILE] [--folder DIR] [--again] [--quick]`

What a quantizer needs comes with `pip install 'speech-qat[peers]'`; one that is not installed, or fails, is a row with
its reason. Rows are stored as they come, and those that are stored are not measured again without `--again`. `--quick`
measures a few utterances and stores nothing without `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.peers_cases import BOTH, CASES, Case, cases_of
from benchmarks.peers_page import line
from benchmarks.peers_run import FAILED, MEASURED, Row, unmeasured
from benchmarks.result_file import RESULTS, ROOT, save, table
from qat.system.provenance import git_commit

PATH = RESULTS / "peers.json"
LOOK_S = 1.0  # seconds between two looks for new rows
ORDER = {
    (kind, case.peer, case.setting, case.bits): n
    for n, (kind, case) in enumerate((kind, case) for kind in BOTH for case in CASES)
}


def key(row: Row) -> tuple[str, str, str, str]:
    """Which row it is."""
    return row["model"], row["peer"], row["setting"], row["bits"]


class Rows:
    """Rows in their file, which always holds all of them.

    Args:
        path: of the file; None keeps them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        stored = json.loads(path.read_text())["results"] if path is not None and path.is_file() else []
        self.commit = git_commit()  # at the start: a stored file that changes is no other code
        self.rows: dict[tuple[str, str, str, str], Row] = {key(row): row for row in stored}

    def has(self, kind: str, case: Case) -> bool:
        """Whether a row is measured."""
        row = self.rows.get((kind, case.peer, case.setting, case.bits))
        return row is not None and row["status"] == MEASURED

    def add(self, row: Row) -> None:
        """Keep a row in its place, write the file, print the row. A measured one stays if it cannot be measured now."""
        row = {"git_commit": self.commit, **row}
        before = self.rows.get(key(row))
        if row["status"] == MEASURED or before is None or before["status"] != MEASURED:
            self.rows[key(row)] = row
        if self.path is not None:
            ordered = sorted(self.rows.values(), key=lambda item: ORDER.get(key(item), len(ORDER)))
            save("peers", ordered, self.path)
        print(table([line(row)], list(line(row))), flush=True)


def pending(options: argparse.Namespace, rows: Rows) -> list[tuple[str, Case]]:
    """What is to be measured: in the order of `--only`, then of the table."""
    every = [(kind, case) for kind in options.models for case in cases_of(kind)]
    found = {
        f"{kind}, {case.name}": (kind, case)
        for text in options.only
        for kind, case in every
        if text in f"{kind}, {case.name}" and (options.again or not rows.has(kind, case))
    }
    return list(found.values())


def run_all(todo: Sequence[tuple[str, Case]], options: argparse.Namespace, rows: Rows, folder: Path) -> None:
    """Measure the rows of each quantizer in a process; where one ends it, go on behind it in the next."""
    for (kind, _), group in groupby(todo, key=lambda item: (item[0], item[1].peer)):
        left = [case for _, case in group]
        while left:
            done, reason = run_some(kind, left, options.quick, folder, rows.add)
            left = left[done:]
            if left:
                rows.add(unmeasured(left[0], kind, FAILED, reason))
                left = left[1:]


def run_some(
    kind: str, cases: Sequence[Case], quick: bool, folder: Path, add: Callable[[Row], None]
) -> tuple[int, str]:
    """Measure rows in one process until its end, and hand on each as it comes; how many came, and how it ended."""
    store = folder / "rows.jsonl"
    store.write_text("")
    command = [sys.executable, "-m", "benchmarks.peers_run", "--model", kind, "--folder", str(folder)]
    command += ["--rows", str(store), *(["--quick"] if quick else []), "--cases", *(c.name for c in cases)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    done, ended = 0, False
    try:
        while not ended:
            time.sleep(LOOK_S)
            ended = process.poll() is not None  # before the last look, so that no row is missed
            lines = store.read_text().splitlines(keepends=True)
            for text in lines[done:]:
                if text.endswith("\n"):
                    add(json.loads(text))
                    done += 1
    finally:
        process.kill()
        process.wait()
    return done, f"its process ended with status {process.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=BOTH, default=list(BOTH))
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="rows with this in their name"
    )
    parser.add_argument("--out", type=Path, help=f"default: {PATH.relative_to(ROOT)}")
    parser.add_argument("--folder", type=Path, help="where the float files are, or are to stay")
    parser.add_argument("--again", action="store_true", help="measure what is stored as well")
    parser.add_argument("--quick", action="store_true", help="a rehearsal on a few utterances")
    options = parser.parse_args()
    rows = Rows(options.out or (None if options.quick else PATH))
    todo = pending(options, rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        run_all(todo, options, rows, folder)
    print(f"{len(todo)} rows" + (f", saved {rows.path}" if rows.path else ""))


if __name__ == "__main__":
    main()
