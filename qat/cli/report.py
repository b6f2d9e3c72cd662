"""`evaluate.py report`: measure checkpoints again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qat.cli.flags import DEFAULT_CONFIG
from qat.evaluation.options import EvaluationOptions
from qat.runs import CONFIG_FILE, MODEL_FILE, find_checkpoint, read_config


def report(targets: Sequence[str], config: Path | None, options: EvaluationOptions) -> None:
    """Rebuild the report of each run or checkpoint.

    A run's report lies in its folder; a single checkpoint's in `report-NAME` beside it.

    Raises:
        UserError: there is no such run or configuration (before PyTorch is imported), or it cannot be measured.
    """
    checkpoints = [find_checkpoint(target) for target in targets]
    chosen = [(checkpoint, read_config(config_of(checkpoint, config))) for checkpoint in checkpoints]
    from datamodules.build import build_data
    from qat.report.build import report_checkpoint

    for checkpoint, settings in chosen:
        folder = checkpoint.parent
        if checkpoint.name != MODEL_FILE:
            folder = folder / f"report-{checkpoint.stem}"
            folder.mkdir(exist_ok=True)
        report_checkpoint(checkpoint, folder, build_data(settings), settings, options)


def config_of(checkpoint: Path, config: Path | None) -> Path:
    """The configuration that goes with a checkpoint: the given one, the run's own, or the default."""
    if config is not None:
        return config
    own = checkpoint.parent / CONFIG_FILE
    return own if own.is_file() else DEFAULT_CONFIG
