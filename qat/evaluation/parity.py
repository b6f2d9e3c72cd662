"""How far the integer file is from the fake-quantized module that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import jiwer
import numpy as np
import torch

from datamodules.batch import Batch
from qat.models.ctc import CTCModule
from qat.runtime.session import Session
from qat.system.errors import UserError
from qat.system.ranks import interleaved


@dataclass
class Parity:
    """Both sides' output on the same utterances.

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

    def to_dict(self) -> dict[str, float]:
        """The report's fields: `max_abs_logit`, `argmax_disagreement` in [0, 1], and both error rates in percent."""
        return {
            "max_abs_logit": self.max_abs_logit,
            "argmax_disagreement": self.differing_frames / max(self.frames, 1),
            "wer_fake": word_error_rate(self.references, self.fake),
            "wer_integer": word_error_rate(self.references, self.integer),
        }


def check_parity(module: CTCModule, session: Session, batches: Iterable[Batch]) -> dict[str, float]:
    """Compare module and file; see `compare`."""
    return compare(module, session, batches).to_dict()


@torch.no_grad()
def compare(module: CTCModule, session: Session, batches: Iterable[Batch]) -> Parity:
    """Run both over the same utterances, one at a time.

    The kernels of some layers take their range over a whole padded batch, the module over each utterance, so only
    batches of one can agree.

    Args:
        module: fake-quantized, as it was exported.
        session: of the exported file.
        batches: of one utterance each.

    Raises:
        UserError: a batch of several utterances.
    """
    was_training, parity = module.training, Parity()
    module.eval()
    for batch in batches:
        if len(batch) != 1:
            raise UserError(f"parity: a batch of {len(batch)} utterances; take batches of one")
        logits, frames = module(batch.signal.to(module.device), batch.lengths.to(module.device))
        fake = logits[0, : int(frames[0])].float().cpu().numpy()
        integer = session.logits(batch.signal[0, : int(batch.lengths[0])].numpy())
        parity.max_abs_logit = max(parity.max_abs_logit, float(np.abs(fake - integer).max()))
        best_fake, best_integer = fake.argmax(-1), integer.argmax(-1)
        parity.differing_frames += int((best_fake != best_integer).sum())
        parity.frames += len(fake)
        parity.references += batch.texts
        parity.fake.append(session.decode(best_fake))
        parity.integer.append(session.decode(best_integer))
    module.train(was_training)
    return parity


def together(parts: Sequence[Parity]) -> Parity:
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
    pairs = [(said, heard) for said, heard in zip(references, hypotheses, strict=True) if said.split()]
    if not pairs:
        return 0.0
    said, heard = zip(*pairs, strict=True)
    return 100.0 * float(jiwer.wer(list(said), list(heard)))
