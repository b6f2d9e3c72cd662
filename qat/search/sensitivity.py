"""How far a quantized model's posteriors, of frames and of a decoder's tokens, are from the float model's."""

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
        posteriors: logarithms, `(B, T, V)` of each head on each batch.
        count: of the valid ones in all.
    """

    batches: Sequence[Batch]
    posteriors: Sequence[Sequence[Tensor]]
    count: int


@torch.no_grad()
def reference_of(module: CTCModule, data: SpeechDataModule, utterances: Sequence[Utterance]) -> Reference:
    """What the float model makes of utterances."""
    by_length = sorted(utterances, key=lambda item: item.duration_s)
    batches, posteriors, count = list(data.loader(by_length, BATCH)), [], 0
    for batch in batches:
        emitted = module.emissions(batch)
        posteriors.append([F.log_softmax(logits.float(), -1) for logits, _ in emitted])
        count += sum(int(valid.sum()) for _, valid in emitted)
    return Reference(batches, posteriors, count)


@torch.no_grad()
def loss_of(module: CTCModule, reference: Reference) -> float:
    """Mean over frames and tokens of KL(float posteriors || those of `module`), in nats.

    Args:
        module: in eval mode.
        reference: of the float model.
    """
    total = 0.0
    for batch, posteriors in zip(reference.batches, reference.posteriors, strict=True):
        for theirs, (logits, valid) in zip(posteriors, module.emissions(batch), strict=True):
            mean = frame_divergence(theirs, logits, valid, labels=torch.ones_like(valid))
            total += float(mean) * len(valid)
    return total / reference.count
