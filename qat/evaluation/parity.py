"""How far the integer file is from the fake-quantized module that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batch import Batch
from qat.decoding.recogniser import Recogniser
from qat.layers.base import device_of
from qat.models.ctc import CTCModule
from qat.system.errors import UserError
from qat.system.ranks import interleaved


@dataclass
class Parity:
    """Both sides' output on the same utterances, added one by one.

    Args:
        max_abs_logit: largest difference of a logit over all valid frames.
        differing_frames: valid frames whose best label differs.
        frames: valid frames.
        references: reference texts.
        fake: texts of the module.
        integer: texts of the file.
    """

    max_abs_logit: float = 0.0
    differing_frames: int = 0
    frames: int = 0
    references: list[str] = field(default_factory=list)
    fake: list[str] = field(default_factory=list)
    integer: list[str] = field(default_factory=list)

    def add(self, module: CTCModule, recogniser: Recogniser, batch: Batch) -> None:
        """Run both on one utterance; the module must be in eval mode.

        Raises:
            UserError: a batch of several utterances.
        """
        fake, integer = module_logits(module, batch), recogniser.logits(signal_of(batch))
        self.max_abs_logit = max(self.max_abs_logit, float(np.abs(fake - integer).max()))
        self.differing_frames += int((fake.argmax(-1) != integer.argmax(-1)).sum())
        self.frames += len(fake)
        self.references += batch.texts
        self.fake.append(recogniser.decode(fake))
        self.integer.append(recogniser.decode(integer))

    def to_dict(self) -> dict[str, float]:
        """The report's fields: `max_abs_logit`, `argmax_disagreement` in [0, 1], and both error rates in percent."""
        return {
            "max_abs_logit": self.max_abs_logit,
            "argmax_disagreement": self.differing_frames / max(self.frames, 1),
            "wer_fake": word_error_rate(self.references, self.fake),
            "wer_integer": word_error_rate(self.references, self.integer),
        }


def check_parity(module: CTCModule, recogniser: Recogniser, batches: Iterable[Batch]) -> dict[str, float]:
    """Compare a fake-quantized module with its exported file over batches of one utterance each.

    Raises:
        UserError: a batch of several utterances.
    """
    was_training, parity = module.training, Parity()
    module.eval()
    for batch in batches:
        parity.add(module, recogniser, batch)
    module.train(was_training)
    return parity.to_dict()


@torch.no_grad()
def module_logits(module: CTCModule, batch: Batch) -> NDArray[Any]:
    """Logits `(T, V)` of the valid frames of a batch of one utterance.

    The kernels of some layers take their range over a whole padded batch, the module over each utterance, so only
    batches of one can agree with the file.

    Raises:
        UserError: a batch of several utterances.
    """
    if len(batch) != 1:
        raise UserError(f"parity: a batch of {len(batch)} utterances, must be one; take batches of one")
    logits, frames = module(batch.signal.to(device_of(module)), batch.lengths)
    return logits[0, : int(frames[0])].float().cpu().numpy()


def signal_of(batch: Batch) -> NDArray[Any]:
    """Samples `(S,)` of a batch of one utterance."""
    return batch.signal[0, : int(batch.lengths[0])].numpy()


def merge_ranks(parts: Sequence[Parity]) -> Parity:
    """The parity of ranks that took every n-th utterance each, utterances in their first order."""
    return Parity(
        max_abs_logit=max(part.max_abs_logit for part in parts),
        differing_frames=sum(part.differing_frames for part in parts),
        frames=sum(part.frames for part in parts),
        references=interleaved([part.references for part in parts]),
        fake=interleaved([part.fake for part in parts]),
        integer=interleaved([part.integer for part in parts]),
    )


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Corpus-level word error rate in percent; 0 without any reference word."""
    import jiwer

    pairs = [pair for pair in zip(references, hypotheses, strict=True) if pair[0].split()]
    if not pairs:
        return 0.0
    spoken, transcribed = zip(*pairs, strict=True)
    return 100.0 * float(jiwer.wer(list(spoken), list(transcribed)))
