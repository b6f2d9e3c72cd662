"""Stored rows of a suite to Weights & Biases."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from qat.report.cells import value_at
from qat.report.row import FLAT_FIELDS, Row
from qat.suite.spec import Suite
from qat.suite.store import Results
from qat.tracking.wandb_mode import choose_mode
from qat.tracking.wandb_names import PROJECT, START_TIMEOUT_S, print_notice
from qat.tracking.wandb_report import plain_cell, summary


def upload_suite(suite: Suite, results: Results, folder: Path) -> int:
    """One run for each stored row under the suite's group, and one with the table of all; the runs written.

    Runs have fixed ids, so uploading again updates them. Offline without a key, as any run.

    Args:
        suite: gives the group its name.
        results: stored rows.
        folder: of the W&B files.
    """
    mode, why = choose_mode(None)
    if mode == "disabled":
        print_notice(f"W&B: not used ({why}); {results.path('')} has everything")
        return 0
    import wandb

    fixed: dict[str, Any] = {
        "project": PROJECT,
        "group": suite.name,
        "dir": str(folder),
        "mode": mode,
        "resume": "allow",
        "reinit": "finish_previous",
        "settings": wandb.Settings(init_timeout=START_TIMEOUT_S, silent=True),
    }
    groups: dict[str, list[Row]] = {}
    for row in results.rows:
        groups.setdefault(f"{row.suite_row} {Path(row.run).name}", []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in groups.items():
        config = {key: value_at(rows[0], key) for key in ("suite_row", "model", "method", "seed", "command")}
        with wandb.init(id=suite_run_id(suite, name), name=name, config=config, **fixed) as run:
            run.summary.update(summary(rows))
    stored = [row.to_dict() for row in results.rows]
    columns = [
        *FLAT_FIELDS,
        *(name for name in ("decoding", "texts_in_train") if any(name in row for row in stored)),
    ]
    table = wandb.Table(
        columns=[*columns],
        data=[[plain_cell(row.get(key)) for key in columns] for row in stored],
        allow_mixed_types=True,  # bits are numbers, or text where groups have their own
    )
    with wandb.init(id=suite_run_id(suite, "summary"), name=f"{suite.name} summary", **fixed) as run:
        run.log({"rows": table})
    print_notice(
        f"W&B: {mode} ({why}), {len(groups)} rows and a summary in group {suite.name}, files in {folder}"
    )
    return len(groups) + 1


def suite_run_id(suite: Suite, name: str) -> str:
    """The same id for the same row."""
    return hashlib.sha256(f"{suite.name}/{name}".encode()).hexdigest()[:12]
