"""How far the posteriors of a quantized model are from the float model's, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import SpeechDataModule
from datamodules.batch import Batch
from datamodules.utterance import Utterance
from qat.models.ctc import CTCModule
from qat.models.distillation import frame_divergence

BATCH = 8  # utterances of similar length that are computed together


@dataclass(frozen=True)
class Reference:
    """The float model's posteriors of some utterances.

    Args:
        batches: the utterances.
        posteriors: logarithms, `(B, T, V)` of each batch.
        frames: in all.
    """

    batches: Sequence[Batch]
    posteriors: Sequence[Tensor]
    frames: int


@torch.no_grad()
def reference_of(module: CTCModule, data: SpeechDataModule, utterances: Sequence[Utterance]) -> Reference:
    """What the float model makes of utterances."""
    by_length = sorted(utterances, key=lambda item: item.duration_s)
    batches, posteriors, count = list(data.loader(by_length, BATCH)), [], 0
    for batch in batches:
        logits, frames = module(batch.signal, batch.lengths)
        posteriors.append(F.log_softmax(logits.float(), -1))
        count += int(frames.sum())
    return Reference(batches, posteriors, count)


@torch.no_grad()
def loss_of(module: CTCModule, reference: Reference) -> float:
    """Mean over the frames of KL(float posteriors || those of `module`), nats per frame.

    Args:
        module: in eval mode.
        reference: of the float model.
    """
    total = 0.0
    for batch, posteriors in zip(reference.batches, reference.posteriors, strict=True):
        logits, frames = module(batch.signal, batch.lengths)
        mean = frame_divergence(posteriors, logits, frames, labels=torch.ones_like(frames))
        total += float(mean) * len(frames)
    return total / reference.frames
