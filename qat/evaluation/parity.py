"""How far the integer file is from the fake-quantized module that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import Batch
from qat.decoding.recogniser import Recogniser
from qat.evaluation.module_side import module_side
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
        utterances: whose tokens were compared.
        differing_utterances: of these, those whose tokens differ; None where a search goes by frames alone.
    """

    max_abs_logit: float = 0.0
    differing_frames: int = 0
    frames: int = 0
    references: list[str] = field(default_factory=list)
    fake: list[str] = field(default_factory=list)
    integer: list[str] = field(default_factory=list)
    utterances: int = 0
    differing_utterances: int | None = None

    def add(self, module: Recogniser, file: Recogniser, batch: Batch) -> None:
        """Run both on one utterance.

        Raises:
            UserError: a batch of several utterances.
        """
        signal = signal_of(batch)
        fake, integer = module.emit(signal), file.emit(signal)
        self.max_abs_logit = max(self.max_abs_logit, float(np.abs(fake.logits - integer.logits).max()))
        self.differing_frames += int((fake.logits.argmax(-1) != integer.logits.argmax(-1)).sum())
        self.frames += len(fake.logits)
        self.references += batch.texts
        self.fake.append(module.text_of(fake))
        self.integer.append(file.text_of(integer))
        self.utterances += 1
        if fake.tokens is not None and integer.tokens is not None:
            self.differing_utterances = (self.differing_utterances or 0) + (fake.tokens != integer.tokens)

    def to_dict(self) -> dict[str, float]:
        """The report's fields: `max_abs_logit`, `argmax_disagreement` in [0, 1], and both error rates in percent.

        Where tokens were searched, also `differing_utterances` in [0, 1].
        """
        found = {
            "max_abs_logit": self.max_abs_logit,
            "argmax_disagreement": self.differing_frames / max(self.frames, 1),
            "wer_fake": word_error_rate(self.references, self.fake),
            "wer_integer": word_error_rate(self.references, self.integer),
        }
        if self.differing_utterances is not None:
            found["differing_utterances"] = self.differing_utterances / max(self.utterances, 1)
        return found


def check_parity(module: CTCModule, file: Recogniser, batches: Iterable[Batch]) -> dict[str, float]:
    """Compare a fake-quantized module with its exported file over batches of one utterance each.

    Raises:
        UserError: a batch of several utterances.
    """
    was_training, parity = module.training, Parity()
    side = module_side(module.eval(), file)
    for batch in batches:
        parity.add(side, file, batch)
    module.train(was_training)
    return parity.to_dict()


def signal_of(batch: Batch) -> NDArray[Any]:
    """Samples `(S,)` of a batch of one utterance.

    The kernels of some layers take their range over a whole padded batch, the module over each utterance, so only
    batches of one can agree with the file.

    Raises:
        UserError: a batch of several utterances.
    """
    if len(batch) != 1:
        raise UserError(f"parity: a batch of {len(batch)} utterances, must be one; take batches of one")
    return batch.signal[0, : int(batch.lengths[0])].numpy()


def merge_ranks(parts: Sequence[Parity]) -> Parity:
    """The parity of ranks that took every n-th utterance each, utterances in their first order."""
    differing = [part.differing_utterances for part in parts if part.differing_utterances is not None]
    return Parity(
        max_abs_logit=max(part.max_abs_logit for part in parts),
        differing_frames=sum(part.differing_frames for part in parts),
        frames=sum(part.frames for part in parts),
        references=interleaved([part.references for part in parts]),
        fake=interleaved([part.fake for part in parts]),
        integer=interleaved([part.integer for part in parts]),
        utterances=sum(part.utterances for part in parts),
        differing_utterances=sum(differing) if differing else None,
    )


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Corpus-level word error rate in percent; 0 without any reference word."""
    import jiwer

    pairs = [pair for pair in zip(references, hypotheses, strict=True) if pair[0].split()]
    if not pairs:
        return 0.0
    spoken, transcribed = zip(*pairs, strict=True)
    return 100.0 * float(jiwer.wer(list(spoken), list(transcribed)))
