"""Reading checkpoints from disk without running code from them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from transformers.utils import cached_file

from qat.errors import UserError
from qat.models.ctc import CTCModule

LAST_FILE = "last.ckpt"
BEFORE_LAST_FILE = "before_last.ckpt"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Contents of a checkpoint of this project, tensors on the CPU.

    Raises:
        UserError: the file is missing, corrupt, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: not a checkpoint of speech-qat (it holds a {type(checkpoint).__name__})")
    missing = [key for key in ("model", "hyper_parameters", "state_dict") if key not in checkpoint]
    if missing:
        raise UserError(f"{path}: not a checkpoint of speech-qat (it lacks {missing[0]!r})")
    return checkpoint


def load_module(path: str | Path) -> CTCModule:
    """Rebuild the model of a checkpoint, folded, swapped and switched as it was, in eval mode.

    Raises:
        UserError: see `read_checkpoint`, or the weights do not fit the recipe.
    """
    import qat.models as models

    checkpoint = read_checkpoint(path)
    model_class = getattr(models, checkpoint["model"].rpartition(".")[2], None)
    if model_class is None:
        raise UserError(f"{path}: model {checkpoint['model']!r} is not one of {', '.join(models.MODELS)}")
    module: CTCModule = model_class(**checkpoint["hyper_parameters"])
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{path}: weights do not fit the recipe ({str(error).splitlines()[1].strip()})"
        ) from None
    return module.eval()


def load_float(name: str | Path) -> CTCModule:
    """The model that `--model.init_from` or `--model.pretrained` names, in eval mode.

    Args:
        name: checkpoint of ours (a file, or what ends in `.ckpt`), or folder or hub name of a Hugging Face Wav2Vec2.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    from qat.models.wav2vec2 import Wav2Vec2Module

    if Path(name).is_file() or str(name).endswith(".ckpt"):
        return load_module(name)
    return Wav2Vec2Module(pretrained=str(name)).eval()


def find_float(name: str) -> Path | None:
    """The file or folder that `load_float` reads; None where it is not on this machine."""
    if name and Path(name).exists():
        return Path(name)
    try:
        config = cached_file(name, "config.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(config).parent if config else None


def save_module(module: CTCModule, path: str | Path) -> None:
    """Write weights, quantizer state and hyper-parameters (no optimiser) atomically; opens with weights_only."""
    path = Path(path)
    checkpoint: dict[str, Any] = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    module.on_save_checkpoint(checkpoint)
    write_checkpoint(checkpoint, path)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that `path` holds the old or all of the new one, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all; of `last.ckpt` the one before is kept as well."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write; a `last.ckpt` that is there becomes `before_last.ckpt` first, and stays until the new one is whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == LAST_FILE and path.is_file():
            keep_as(path, path.with_name(BEFORE_LAST_FILE))
        write_checkpoint(checkpoint, path)


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, atomically; on file systems without hard links, a copy."""
    part = other.with_name(f".{other.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:
        shutil.copyfile(path, part)
    part.replace(other)
