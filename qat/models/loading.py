"""Models from files, and back: checkpoints of ours, and folders of Hugging Face and of SpeechBrain.

The model classes are imported on first use: a CRDNN needs no transformers, a Wav2Vec2 no SpeechBrain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from qat import models
from qat.models.checkpoint import first_problem, read_checkpoint, refuse_not_finite, write_checkpoint
from qat.models.ctc import CTCModule
from qat.models.distillation import Teacher
from qat.models.speechbrain_folder import cached_folder, folder_layout, is_folder
from qat.runs import SPEECHBRAIN_FILE, sha256_of_checkpoint
from qat.system.errors import UserError


def load_module(path: str | Path) -> CTCModule:
    """Rebuild the model of a checkpoint, folded, swapped and switched as it was, in eval mode.

    A `hyperparams.yaml` stands for the pretrained folder of SpeechBrain that it lies in.

    Raises:
        UserError: see `read_checkpoint` and `read_folder`, or the weights do not fit the recipe.
    """
    if Path(path).name == SPEECHBRAIN_FILE:
        return load_folder(Path(path).parent)
    checkpoint = read_checkpoint(path)
    name = checkpoint["model"].rpartition(".")[2]
    if name not in models.__all__:
        raise UserError(
            f"{path}: model {checkpoint['model']!r}, must be one of {', '.join(models.__all__)}; "
            "a newer speech-qat may have written it"
        )
    module: CTCModule = getattr(models, name)(**checkpoint["hyper_parameters"])
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit the recipe ({first_problem(error)})") from None
    refuse_not_finite(module, path)
    return module.eval()


def load_folder(folder: str | Path) -> CTCModule:
    """The float model of a pretrained folder of SpeechBrain, in eval mode.

    Raises:
        UserError: see `read_folder`.
    """
    attention = folder_layout(folder) == "attention"
    built: Any = models.AttentionModule if attention else models.SpeechBrainWav2Vec2Module
    return built(speechbrain=str(folder)).eval()


def load_float(name: str | Path) -> CTCModule:
    """The model that `--model.init_from`, `--model.pretrained` or `--model.speechbrain` names, in eval mode.

    Args:
        name: checkpoint of ours (a file, or what ends in `.ckpt`), folder of SpeechBrain or hub name of a downloaded
            one, or folder or hub name of a Hugging Face Wav2Vec2.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    if Path(name).is_file() or str(name).endswith(".ckpt"):
        return load_module(name)
    if is_folder(name):
        return load_folder(name)
    if cached := cached_folder(name):
        return load_folder(cached)
    return models.Wav2Vec2Module(pretrained=str(name)).eval()


def find_float(name: str) -> Path | None:
    """The file or folder that `load_float` reads; None where it is not on this machine.

    Of a folder of SpeechBrain it is the `hyperparams.yaml`, as `find_checkpoint` has it.
    """
    if name and Path(name).exists():
        return Path(name) / SPEECHBRAIN_FILE if is_folder(name) else Path(name)
    if cached := cached_folder(name):
        return cached
    from transformers.utils import cached_file

    try:
        config = cached_file(name, "config.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(config).parent if config else None


def save_module(module: CTCModule, path: str | Path) -> None:
    """Write weights, quantizer state and hyper-parameters (no optimiser) atomically; opens with weights_only.

    Tensors are written as of a CPU, so that the file opens on machines without a GPU, whatever opens it.
    """
    path, state = Path(path), module.state_dict()
    for key, value in state.items():
        state[key] = value.cpu()
    checkpoint: dict[str, Any] = {
        "state_dict": state,
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    module.on_save_checkpoint(checkpoint)
    write_checkpoint(checkpoint, path)


def load_teacher_(module: CTCModule) -> None:
    """Read the teacher that a model names, once, before training.

    Raises:
        UserError: it cannot be read, or has other labels than the model.
    """
    path = module.options.teacher
    if path and module.teacher is None:
        teacher = load_float(path)
        module.teacher = Teacher(
            teacher, path, teacher.label_names, module.label_names, sha256_of_float(path)
        )


def sha256_of_float(name: str) -> str:
    """Digest of the file or folder that `load_float` reads; empty where it is not on this machine."""
    path = find_float(name)
    return "" if path is None else sha256_of_checkpoint(path)
