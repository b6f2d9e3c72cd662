"""Checkpoint files: read without running code from them, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from qat.recipe import Recipe
from qat.runs import BEFORE_LAST_FILE, LAST_FILE
from qat.system.errors import UserError, first_line
from qat.system.files import replacing


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Contents of a checkpoint of this project, tensors on the CPU.

    Raises:
        UserError: the file is missing, corrupt, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    refuse_damaged(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        raise UserError(f"{path}: not a readable checkpoint ({first_line(error, 120)})") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: not a checkpoint of speech-qat (it holds a {type(checkpoint).__name__})")
    missing = [key for key in ("model", "hyper_parameters", "state_dict") if key not in checkpoint]
    if missing:
        raise UserError(f"{path}: not a checkpoint of speech-qat (it lacks {missing[0]!r})")
    return checkpoint


def refuse_damaged(path: Path) -> None:
    """Compare the checksum of every tensor with what the file says, which `torch.load` does not.

    Raises:
        UserError: one differs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged directory may fail in any way
        if not zipfile.is_zipfile(path):
            return  # an older format, which has no checksums
        damaged = str(error)
    if damaged:
        raise UserError(f"{path}: must be whole, and is damaged at {damaged!r}; copy it again")


def model_path(module: nn.Module) -> str:
    """Import path of a module's class, as a checkpoint and a configuration name it."""
    return f"qat.models.{type(module).__name__}"


def load_float_weights_(module: nn.Module, path: str) -> None:
    """Copy the weights of a float checkpoint of the same model (`init_from`).

    Raises:
        UserError: the file is not a checkpoint, or one of another model or of a quantized run.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint["model"] != model_path(module):
        raise UserError(
            f"{path}: init_from holds a {checkpoint['model']}, and this run builds a {model_path(module)}"
        )
    if Recipe.from_dict(checkpoint["hyper_parameters"]["recipe"]).active:
        raise UserError(f"{path}: init_from is a quantized checkpoint; it must be a float one (`--qat off`)")
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: init_from does not fit this model: {first_problem(error)}") from None
    refuse_not_finite(module, path)


def refuse_not_finite(module: nn.Module, path: str | Path) -> None:
    """Refuse the weights of a run that has diverged.

    Raises:
        UserError: naming the file and the weight.
    """
    if name := first_not_finite(module):
        raise UserError(
            f"{path}: weight {name} is NaN or infinite, and must be finite; take one of before the run diverged"
        )


def first_not_finite(module: nn.Module) -> str | None:
    """Name of the first weight or statistic of BatchNorm that holds NaN or infinity; ranges of observers may.

    >>> first_not_finite(nn.Linear(1, 1)) is None
    True
    """
    named = {
        name: tensor
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if isinstance(tensor, nn.Parameter) or name.endswith(("running_mean", "running_var"))
    }
    found = {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and tensor.numel()}
    if not found:
        return None
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in found.values()])  # read back at once
    return next((name for name, good in zip(found, finite.tolist(), strict=True) if not good), None)


def first_problem(error: RuntimeError) -> str:
    """The first key that PyTorch's message about a state dict names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    with (
        replacing(path) as part,
        part.open("wb") as file,
    ):  # given a path, torch writes its name into the file
        torch.save(checkpoint, file)


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all; of `last.ckpt` the one before is kept as well."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read, if it is whole.

        Raises:
            UserError: it is damaged.
        """
        if Path(path).is_file():
            refuse_damaged(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write; a `last.ckpt` that is there becomes `before_last.ckpt` first, and stays until the new one is whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == LAST_FILE and path.is_file():
            keep_as(path, path.with_name(BEFORE_LAST_FILE))
        write_checkpoint(checkpoint, path)


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, atomically; on file systems without hard links, a copy."""
    with replacing(other) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
