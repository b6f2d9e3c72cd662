"""Reading checkpoints from disk without running code from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch

from qat.errors import UserError
from qat.models.ctc import CTCModule


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


def save_module(module: CTCModule, path: str | Path) -> None:
    """Write weights, quantizer state and hyper-parameters (no optimiser) atomically; opens with weights_only."""
    path = Path(path)
    checkpoint: dict[str, Any] = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    module.on_save_checkpoint(checkpoint)
    part = path.with_name(path.name + ".part")
    torch.save(checkpoint, part)
    part.replace(path)
