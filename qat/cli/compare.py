"""`evaluate.py compare`: runs side by side."""

from __future__ import annotations

import argparse
import sys

from qat.report.compare import compare, read_run
from qat.report.compare_files import write_comparison
from qat.runs import CHECKPOINTS
from qat.tracking.wandb_runs import find_runs, log_comparison


def side_by_side(options: argparse.Namespace) -> None:
    """Compare runs: print in one format, write all of them and figures, log the table."""
    runs = [read_run(folder) for folder in find_runs(options.targets)]
    found = compare(runs, options.sort, options.seed)
    name = "--".join([run.name for run in runs][:2]) + (f"--and-{len(runs) - 2}" if len(runs) > 2 else "")
    folder = options.out or CHECKPOINTS / "comparisons" / name
    texts = write_comparison(found, folder)
    print(texts[options.format], end="")
    print(f"wrote {folder}/comparison.md, .json, .csv and figures", file=sys.stderr)
    if options.wandb:
        log_comparison(found, folder)
