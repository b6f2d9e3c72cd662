"""Which checkpoint a run goes on from, and whether it is one of this very run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qat.models.checkpoint import keep_as, model_path, read_checkpoint
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.runs import BEFORE_LAST_FILE
from qat.system.errors import UserError
from qat.system.ranks import launched_rank


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
            print(f"{error}; going on from {before.name}, which takes its place", file=sys.stderr, flush=True)
            keep_as(before, path)
        return checkpoint


def check_same_run(model: CTCModule, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another model or recipe, or one without an optimiser.

    Raises:
        UserError: naming the field and both values.
    """
    if checkpoint["model"] != model_path(model):
        raise UserError(f"{path}: holds a {checkpoint['model']}, and this run builds a {model_path(model)}")
    if "global_step" not in checkpoint:
        raise UserError(
            f"{path}: holds weights only, no optimiser to resume; start from it with --model.init_from"
        )
    stored = dict(checkpoint["hyper_parameters"])
    stored["recipe"] = Recipe.from_dict(stored["recipe"]).to_dict()  # an older one lacks newer fields
    refuse_difference(stored, dict(model.hparams), path)


def check_same_course(checkpoint: Mapping[str, Any], path: Path, course: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other training batches; a run without a seed is not held to one.

    Raises:
        UserError: naming the field and both values.
    """
    stored = checkpoint.get("course")
    if stored is not None:  # an older version's checkpoint has none
        known = {key: value for key, value in stored.items() if key in course or key != "seed"}
        refuse_difference(known, course, path)


def refuse_difference(stored: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    """Raise at the first key whose values differ.

    Raises:
        UserError: naming the key and both values.
    """
    for key in sorted(set(stored) | set(ours)):
        if stored.get(key) != ours.get(key):
            theirs, mine = difference(stored.get(key), ours.get(key))
            raise UserError(f"{path}: its {key} is {theirs}, and this run's is {mine}")


def difference(first: Any, second: Any) -> tuple[str, str]:
    """Two values as text; of two mappings only the entries that differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [key for key in sorted(set(first) | set(second)) if first.get(key) != second.get(key)]
        return (
            ", ".join(f"{key}={first.get(key)!r}" for key in keys),
            ", ".join(f"{key}={second.get(key)!r}" for key in keys),
        )
    return repr(first), repr(second)
