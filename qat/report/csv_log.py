"""metrics.csv, continued without gap or doubled row when a run is resumed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

METRICS_FILE = "metrics.csv"


def csv_logger(run_folder: Path, resumed_at: int | None = None) -> CSVLogger:
    """Lightning's logger of `run_folder/metrics.csv`, which alone would delete what is there.

    Args:
        run_folder: of the run.
        resumed_at: optimiser steps that the checkpoint to resume from has made: rows before stay, later ones are
            dropped, for they will be logged again. None starts a new file (and is right for all ranks but the first).
    """
    kept = rows_before(run_folder / METRICS_FILE, resumed_at) if resumed_at is not None else []
    logger = CSVLogger(str(run_folder.parent), name=run_folder.name, version="")
    for row in kept:
        logger.log_metrics(row, row["step"])
    if kept:
        logger.save()
    return logger


def rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows of a metrics file of optimiser steps before `step`, without their empty cells."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows if int(row.get("step", step)) < step]
