"""What an attention model's weights start from: a folder of SpeechBrain, or the encoder of a CTC model."""

from __future__ import annotations

from torch import nn

from qat.models.checkpoint import first_problem, read_checkpoint
from qat.models.speechbrain_folder import read_folder
from qat.models.speechbrain_parameters import SpeechBrainFolder
from qat.system.errors import UserError


def attention_folder(name: str) -> SpeechBrainFolder:
    """A pretrained folder of SpeechBrain with an attention decoder.

    Raises:
        UserError: see `read_folder`, or it has none.
    """
    folder = read_folder(name)
    if folder.layout != "attention":
        raise UserError(
            f"{folder.path}: a Wav2Vec2, must have an attention decoder; use qat.models.SpeechBrainWav2Vec2Module"
        )
    return folder


def load_encoder_(encoder: nn.Module, path: str) -> None:
    """Copy the encoder of a float `CRDNNModule` checkpoint.

    Raises:
        UserError: the checkpoint's encoder has other sizes.
    """
    state = read_checkpoint(path)["state_dict"]
    prefix = "crdnn."
    theirs = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    try:
        encoder.load_state_dict(theirs)
    except RuntimeError as error:
        raise UserError(f"{path}: init_encoder does not fit: {first_problem(error)}") from None
