"""`evaluate.py report`: measure checkpoints again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qat.cli.flags import DEFAULT_CONFIG, SPEECHBRAIN_FLAG, default_config
from qat.decoding.options import DecodingOptions
from qat.evaluation.options import EvaluationOptions
from qat.runs import (
    CONFIG_FILE,
    MODEL_FILE,
    SPEECHBRAIN_FILE,
    START_KEYS,
    find_checkpoint,
    read_config,
)
from qat.runtime.formats import FileFormat
from qat.system.lock import using


def report(
    targets: Sequence[str],
    config: Path | None,
    options: EvaluationOptions,
    decoding: DecodingOptions | None = None,
    file_format: FileFormat | None = None,
) -> None:
    """Rebuild the report of each run or checkpoint.

    A run's report lies in its folder; a single checkpoint's in `report-NAME` beside it.

    Args:
        targets: run names, run folders or checkpoint files.
        config: with the data; None: the run's own.
        options: how to measure.
        decoding: what to change of the search, over what the run's configuration changes of the model's own.
        file_format: of the integer files; None: as the run's configuration says.

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
        searched = searched_by(settings, decoding or DecodingOptions())
        if file_format is not None:
            searched = {**searched, "export": {"format": file_format}}
        if config is None and is_borrowed(checkpoint):
            searched = without_start(searched)
        with using(folder, "report"):
            report_checkpoint(checkpoint, folder, build_data(settings), searched, options)


def searched_by(config: dict[str, Any], decoding: DecodingOptions) -> dict[str, Any]:
    """A configuration with a user's changes of its search.

    >>> searched_by({"decoding": {"beam": 2, "lm_weight": 0.1}}, DecodingOptions(beam=4))
    {'decoding': {'beam': 4, 'lm_weight': 0.1}}
    >>> searched_by({"seed_everything": 1}, DecodingOptions())
    {'seed_everything': 1}
    """
    together = {**(config.get("decoding") or {}), **decoding.given()}
    return {**config, "decoding": together} if together else config


def is_borrowed(checkpoint: Path) -> bool:
    """Whether a checkpoint, without a configuration beside it, is measured by the default one."""
    return checkpoint.name != SPEECHBRAIN_FILE and not (checkpoint.parent / CONFIG_FILE).is_file()


def without_start(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of another model: its float start is none of the model that is measured.

    >>> without_start({"model": {"class_path": "M", "init_args": {"init_from": "a.ckpt", "n_mels": 8}}})
    {'model': {'class_path': 'M', 'init_args': {'n_mels': 8}}}
    """
    model = config.get("model") or {}
    arguments = model.get("init_args") or {}
    kept = {key: value for key, value in arguments.items() if key not in START_KEYS}
    return {**config, "model": {**model, "init_args": kept}}


def config_of(checkpoint: Path, config: Path | None) -> Path:
    """The configuration that goes with a checkpoint: the given one, the run's own, or the default of its kind."""
    if config is not None:
        return config
    if checkpoint.name == SPEECHBRAIN_FILE:
        return default_config([f"{SPEECHBRAIN_FLAG}={checkpoint.parent}"])
    own = checkpoint.parent / CONFIG_FILE
    return own if own.is_file() else DEFAULT_CONFIG
