"""Distillation: a float model's frame posteriors as targets beside the transcript (Hinton 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.errors import UserError

if TYPE_CHECKING:
    from qat.models.ctc import CTCModule

FRAME_SLACK = 2  # models of one frame rate differ by this much at the end of an utterance


class Teacher:
    """A frozen model in eval mode whose posteriors a student follows frame by frame.

    It is no submodule of the student, so that neither its weights nor its name reach the student's checkpoints.

    Args:
        path: checkpoint of any of our models with the student's vocabulary, in the same order, and frame rate.
        vocabulary: the student's labels.

    Raises:
        UserError: the checkpoint cannot be read, or its vocabulary is another one.
    """

    def __init__(self, path: str, vocabulary: list[str]) -> None:
        from qat.models.checkpoint import load_module

        self.path = path
        self.model: CTCModule = load_module(path).requires_grad_(False)
        if self.model.vocabulary != vocabulary:
            raise UserError(
                f"{path}: teacher has {len(self.model.vocabulary)} labels {self.model.vocabulary[:4]}..., the student "
                f"{len(vocabulary)} {vocabulary[:4]}...; allowed are the same labels in the same order"
            )

    @torch.no_grad()
    def __call__(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples `(B, S)`, `lengths (B,)` -> (log posteriors `(B, T, V)`, valid frames `(B,)`)."""
        logits, frames = self.model.to(signal.device)(signal, lengths)
        return F.log_softmax(logits.float(), dim=-1), frames

    def loss(self, logits: Tensor, frames: Tensor, signal: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Mean over utterances of the divergence per label between the teacher's posteriors and the student's.

        Args:
            logits: the student's, `(B, T, V)`.
            frames: its valid frames `(B,)`.
            signal: what both heard, `(B, S)`.
            lengths: valid samples `(B,)`.
            labels: labels of each transcript `(B,)`, at least 1: the scale of the CTC loss beside it.

        Raises:
            UserError: the two have other frame rates.
        """
        theirs, their_frames = self(signal, lengths)
        slack = int((their_frames - frames).abs().max())
        if slack > FRAME_SLACK:
            raise UserError(
                f"{self.path}: teacher has {int(their_frames.max())} frames where the student has "
                f"{int(frames.max())}; allowed is a teacher of the same frame rate"
            )
        return frame_divergence(theirs, logits, torch.minimum(frames, their_frames), labels)


def frame_divergence(teacher: Tensor, logits: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """Mean over utterances of sum_t KL(teacher_t || softmax(logits)_t) / labels, over valid frames.

    Args:
        teacher: log posteriors `(B, T, V)`; T may differ from the student's at the end.
        logits: `(B, T', V)`.
        frames: frames to compare `(B,)`, at most T and T'.
        labels: divisor of each utterance `(B,)`; 0 counts as 1.
    """
    total = int(frames.max())
    student = F.log_softmax(logits[:, :total].float(), dim=-1)
    divergence = F.kl_div(student, teacher[:, :total], reduction="none", log_target=True).sum(-1)
    valid = torch.arange(total, device=frames.device)[None, :] < frames[:, None]
    return (divergence.masked_fill(~valid, 0.0).sum(1) / labels.clamp(min=1)).mean()
