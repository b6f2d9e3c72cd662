"""Before a run: whether the audio of every utterance gives CTC as many frames as its text needs."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.audio_file import SAMPLE_RATE
from datamodules.base import SpeechDataModule
from datamodules.utterance import Utterance
from qat.models.alignable import check_share, frames_needed
from qat.models.ctc import CTCModule

NAMED = 3


def check_texts(model: CTCModule, data: SpeechDataModule) -> None:
    """Count and name the utterances of train and dev that cannot be aligned, and set the share that training allows.

    A stream is counted while it is read. Models without a CTC loss align anything.

    Raises:
        UserError: more than `data.max_unalignable` of the training utterances, or all.
    """
    model.unalignable.limit = data.max_unalignable
    if not getattr(model.options, "ctc_weight", 1.0) or not model.label_names:
        return
    for split in ("train", "dev"):
        if not data.can_list(split):
            continue
        utterances = data.utterances(split)
        found = unalignable(model, utterances)
        if not found:
            continue
        names = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
        if split == "train":
            check_share(len(found), len(utterances), data.max_unalignable, f": {names}")
        counted = f"{len(found)} of {len(utterances)} utterances have more text than their audio can hold"
        rank_zero_info(f"{split}: {counted}, their CTC loss is 0: {names}")


def unalignable(model: CTCModule, utterances: Sequence[Utterance]) -> list[str]:
    """Id, frames needed and frames given of each utterance that CTC cannot align."""
    found = []
    for item in utterances:
        needed = frames_needed(model.labels(item.text))
        given = model.emitted_frames(round(item.duration_s * SAMPLE_RATE))
        if needed > given:
            found.append(f"{item.id!r} ({needed} frames, has {given})")
    return found
