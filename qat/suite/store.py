"""What a suite has measured so far, on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qat.report.row import Row, load_report, save_report
from qat.runs import METRICS_FILE, REPORT_FILE, UTTERANCES_FILE
from qat.suite.jobs import Job
from qat.suite.spec import FLOAT
from qat.system.errors import UserError
from qat.system.files import write_text

DEV_WER = "val/wer"  # in a training log


@dataclass
class Results:
    """What was measured so far, on disk after every run.

    Args:
        folder: of `NAME.json` (report rows), `NAME_runs.json` (state of each run) and `NAME_errors.json` (word errors
            of each utterance).
        name: of the suite.
    """

    folder: Path
    name: str
    rows: list[Row] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, name: str) -> Results:
        """What is stored, or nothing yet.

        Raises:
            UserError: a file that is not ours.
        """
        results = cls(folder, name)
        if results.path("").is_file():
            results.rows = load_report(results.path(""))
        for suffix in ("runs", "errors"):
            if (path := results.path(f"_{suffix}")).is_file():
                try:
                    setattr(results, suffix, json.loads(path.read_text()))
                except ValueError as error:
                    raise UserError(f"{path}: not JSON ({error})") from None
        return results

    def path(self, suffix: str) -> Path:
        """`NAME{suffix}.json`."""
        return self.folder / f"{self.name}{suffix}.json"

    def save(self) -> None:
        """Write all three, each whole or not at all; the states last, so that a run counts once its rows are there."""
        save_report(self.path(""), self.rows)
        for suffix, content in (("errors", self.errors), ("runs", self.runs)):
            lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
            write_text(self.path(f"_{suffix}"), "{\n" + lines + "\n}\n")

    def drop_stale(self, jobs: Sequence[Job]) -> int:
        """Forget runs that were made with other settings than the suite now names; how many."""
        stale = [job for job in jobs if self.runs.get(job.id, {}).get("sha256", job.sha256) != job.sha256]
        for job in stale:
            del self.runs[job.id]
            self.errors.pop(job.id, None)
            gone = (job.row.id, job.folder.name)
            self.rows = [row for row in self.rows if (row.suite_row, row.run) != gone]
        for model in {job.row.model for job in stale}:
            if not any(
                job.id in self.runs for job in jobs if job.row.model == model
            ):  # the float row was theirs
                self.errors.pop(f"{model}/{FLOAT}", None)
                self.rows = [row for row in self.rows if row.suite_row != f"{model}/{FLOAT}"]
        return len(stale)

    def done(self, job: Job) -> bool:
        """Whether this very run is stored."""
        found = self.runs.get(job.id, {})
        return found.get("status") == "done" and found.get("sha256") == job.sha256

    def add(self, job: Job, minutes: float) -> list[Row]:
        """Take over a finished run from its folder; its rows."""
        report = load_report(job.folder / REPORT_FILE)
        texts = json.loads((job.folder / UTTERANCES_FILE).read_text())
        own = report[-1].method  # variants and the post-training twin come before it
        mine = [replace(row, suite_row=job.row.id) for row in report if row.method == own]
        kept = [row for row in self.rows if (row.suite_row, row.run) != (job.row.id, mine[0].run)]
        base = f"{job.row.model}/{FLOAT}"
        is_reference = not any(
            flag.startswith("--decoding.") for flag in job.row.args
        )  # else searched otherwise
        if is_reference and not any(row.suite_row == base for row in kept):
            kept += [replace(row, suite_row=base) for row in report if row.method == FLOAT]
        self.rows = [*kept, *mine]
        errors = {
            name: {split: values["errors"] for split, values in splits.items()}
            for name, splits in texts["files"].items()
        }
        name = list(errors)[-1]
        self.errors[f"{job.row.model}/words"] = {
            split: values["words"] for split, values in texts["splits"].items()
        }
        if is_reference and any(row.method == FLOAT for row in report):  # not the same weights in float
            self.errors[base] = errors[FLOAT]
        self.errors[job.id] = errors[name]
        self.runs[job.id] = {"status": "done", "sha256": job.sha256, "minutes": round(minutes, 2)}
        if (dev := dev_wer(job.folder / METRICS_FILE)) is not None:
            self.runs[job.id]["dev_wer"] = round(dev, 4)
        return mine

    def fail(self, job: Job, reason: str, minutes: float) -> None:
        """Remember that a run failed and why."""
        self.runs[job.id] = {
            "status": "failed",
            "sha256": job.sha256,
            "error": reason,
            "minutes": round(minutes, 2),
        }


def dev_wer(log: Path) -> float | None:
    """The least dev error rate (percent) of a training log: that of the checkpoint kept; None without training."""
    if not log.is_file():
        return None
    from qat.report.figures import read_metrics  # here, as Matplotlib takes half a second

    return min((wer for _, wer in read_metrics(log, [DEV_WER])[DEV_WER]), default=None)
