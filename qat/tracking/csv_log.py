"""metrics.csv, and its rows in checkpoints: a resumed run continues it without gap or doubled row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from qat.system.files import naming_full_disk

MetricRow = dict[str, Any]  # name of a metric -> its value; `step`: optimiser steps made before


class MetricsLog(CSVLogger):
    """Lightning's logger of `run_folder/metrics.csv`, which remembers its rows.

    Checkpoints carry them, so that weights and log are one state: whatever a kill leaves of the file, a resumed run
    writes it anew from its checkpoint.

    Args:
        run_folder: of the run.
        rows: of the checkpoint to resume from.
    """

    def __init__(self, run_folder: Path, rows: Sequence[MetricRow] = ()) -> None:
        super().__init__(str(run_folder.parent), name=run_folder.name, version="")
        self.rows: list[MetricRow] = []
        self.expected: MetricRow | None = None
        replay(self, rows)
        if rows:
            self.save()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """As `CSVLogger`, and remembered; `step`: optimiser steps made before."""
        step = len(self.rows) if step is None else step
        super().log_metrics(metrics, step)
        self.expected = None
        self.rows.append({**metrics, "step": step})

    @rank_zero_only
    def save(self) -> None:
        """As `CSVLogger`.

        Raises:
            UserError: the disk is full.
        """
        with naming_full_disk(Path(self.log_dir) / "metrics.csv"):
            super().save()

    @rank_zero_only
    def expect(self, metrics: Mapping[str, Any], step: int) -> None:
        """Note the row that will be logged next, for a checkpoint that is written before it."""
        self.expected = {**metrics, "step": step}

    def state(self) -> list[MetricRow]:
        """All rows up to now, in builtins that any checkpoint can hold."""
        rows = self.rows if self.expected is None else [*self.rows, self.expected]
        return [{key: plain(value) for key, value in row.items()} for row in rows]


def rows_before(path: Path, step: int) -> list[MetricRow]:
    """Rows of a metrics file of optimiser steps before `step`: the log of a checkpoint that does not carry it yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: number(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", step) < step]


def number(text: str) -> float:
    """The number that a cell holds, an int where it was one."""
    return int(text) if text.isdigit() else float(text)


def replay(logger: Logger, rows: Sequence[MetricRow]) -> None:
    """Log rows as they were logged at first."""
    for row in rows:
        logger.log_metrics({key: value for key, value in row.items() if key != "step"}, row["step"])


def plain(value: Any) -> Any:
    """A tensor of one element as a number."""
    return value.item() if hasattr(value, "item") else value
