"""Which checkpoint a run resumes from, and whether it is one of this very run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qat.models.checkpoint import keep_as, model_path, read_checkpoint
from qat.models.ctc import CTCModule
from qat.models.loading import sha256_of_float
from qat.recipe import Recipe
from qat.runs import BEFORE_LAST_FILE, METRICS_FILE, checkpoint_to_resume
from qat.system.errors import UserError
from qat.system.ranks import launched_rank
from qat.tracking.csv_log import rows_before


def resume_from(
    choice: str | None, run_folder: Path, model: CTCModule, batch_conditions: Mapping[str, Any]
) -> tuple[str | None, list[dict[str, Any]]]:
    """The checkpoint to resume from, checked against this run's model, recipe and data, and its rows of the log.

    Args:
        choice: `last`, `best`, a path, or None for a new run.
        run_folder: of the run.
        model: as this run builds it.
        batch_conditions: what decides this run's training batches.

    Raises:
        UserError: there is none, it cannot be read, or it is another run's.
    """
    if choice is None:
        return None, []
    path = checkpoint_to_resume(run_folder, choice)
    checkpoint = read_last(path) if choice == "last" else read_checkpoint(path)
    check_same_run(model, checkpoint, path)
    check_same_batches(checkpoint, path, batch_conditions)
    check_same_teacher(checkpoint, path, model.options.teacher)
    old = rows_before(run_folder / METRICS_FILE, checkpoint["global_step"])
    return str(path), checkpoint.get("logged", old)  # an older version's checkpoint has none


def read_last(path: Path) -> dict[str, Any]:
    """The last checkpoint of a run; where it is torn, the one before, which then takes its place.

    Raises:
        UserError: neither can be read.
    """
    try:
        return read_checkpoint(path)
    except UserError as error:
        before = path.with_name(BEFORE_LAST_FILE)
        if not before.is_file():
            raise
        checkpoint = read_checkpoint(before)
        if launched_rank() == 0:
            print(f"{error}; resuming from {before.name}, which takes its place", file=sys.stderr, flush=True)
            keep_as(before, path)
        return checkpoint


def check_same_run(model: CTCModule, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another model or recipe, or one without an optimiser.

    Raises:
        UserError: naming the field and both values.
    """
    if checkpoint["model"] != model_path(model):
        raise UserError(
            f"{path}: its model is {checkpoint['model']} and must be {model_path(model)} as in this run"
        )
    if "global_step" not in checkpoint:
        raise UserError(
            f"{path}: holds weights only and must hold an optimiser too; start from it with --model.init_from"
        )
    defaults = asdict(type(model.options)())  # an older checkpoint lacks newer fields
    newer = {key: value for key, value in defaults.items() if key in model.hparams}
    stored = {**newer, **checkpoint["hyper_parameters"]}
    stored["recipe"] = Recipe.from_dict(stored["recipe"]).to_dict()
    refuse_difference(stored, dict(model.hparams), path)


def check_same_batches(
    checkpoint: Mapping[str, Any], path: Path, batch_conditions: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint of other training batches; a run without a seed is not held to one.

    Raises:
        UserError: naming the field and both values.
    """
    stored = checkpoint.get("course")
    if stored is not None:  # an older version's checkpoint has none
        known = {key: value for key, value in stored.items() if key in batch_conditions or key != "seed"}
        refuse_difference(known, batch_conditions, path)


def check_same_teacher(checkpoint: Mapping[str, Any], path: Path, teacher: str | None) -> None:
    """Refuse a teacher whose file has changed since the run began.

    Raises:
        UserError: naming both digests.
    """
    stored = checkpoint.get("teacher_sha256")  # an older version's checkpoint has none
    if not stored or not teacher:
        return
    ours = sha256_of_float(teacher)
    if ours != stored:
        now = f"has the SHA-256 {ours[:12]}..." if ours else "is not on this machine"
        raise UserError(
            f"{path}: its teacher {teacher} {now} and must have {stored[:12]}..., as when the run began; put that "
            "file back, or start a new run"
        )


def refuse_difference(stored: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    """Raise at the first key whose values differ.

    Raises:
        UserError: naming the key and both values.
    """
    for key in sorted(set(stored) | set(ours)):
        if stored.get(key) != ours.get(key):
            theirs, mine = difference(stored.get(key), ours.get(key))
            raise UserError(
                f"{path}: its {key} is {theirs} and must be {mine} as in this run; resume with the run's own options"
            )


def difference(first: Any, second: Any) -> tuple[str, str]:
    """Two values as text; of two mappings only the entries that differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in sorted(set(first) | set(second)) if first.get(key) != second.get(key)]
        return (
            ", ".join(f"{key}={first.get(key)!r}" for key in keys),
            ", ".join(f"{key}={second.get(key)!r}" for key in keys),
        )
    return repr(first), repr(second)
