"""Distillation: a float model's frame posteriors as targets beside the transcript (Hinton 2015, arXiv 1503.02531)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.masking import frame_mask, to_device_of
from qat.system.errors import UserError

FRAME_SLACK = 2  # models of one frame rate differ by this much at the end of an utterance
CUTS = (0.25, 0.75)  # an utterance is cut somewhere between these shares of its length


class Teacher:
    """A frozen model in eval mode whose posteriors a student follows frame by frame.

    It is no submodule of the student, so that neither its weights nor its name reach the student's checkpoints.

    Args:
        model: a recogniser in eval mode, `(signal, lengths)` -> (logits `(B, T, V)`, frames `(B,)`), of the student's
            frame rate.
        path: where it comes from, for messages.
        labels: what it emits, in order.
        student_labels: what the student emits.
        sha256: of the file or folder, by which a resumed run knows it again; empty where nobody asks.

    Raises:
        UserError: the labels differ.
    """

    def __init__(
        self, model: nn.Module, path: str, labels: list[str], student_labels: list[str], sha256: str = ""
    ) -> None:
        self.path, self.model, self.sha256 = path, model.requires_grad_(False), sha256
        if labels != student_labels:
            raise UserError(
                f"{path}: teacher has {len(labels)} labels {labels[:4]}..., the student "
                f"{len(student_labels)} {student_labels[:4]}...; must be the same labels in the same order"
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
            signal: what both were given, `(B, S)`.
            lengths: valid samples `(B,)`.
            labels: number of labels of each transcript `(B,)`: the divisor that the CTC loss beside it has too.

        Raises:
            UserError: the two have different frame rates.
        """
        theirs, their_frames = self(signal, lengths)
        slack = int((their_frames - frames).abs().max())
        if slack > FRAME_SLACK:
            raise UserError(
                f"{self.path}: teacher has {int(their_frames.max())} frames where the student has "
                f"{int(frames.max())}; must have the same frame rate"
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
    valid = frame_mask(frames, divergence)
    counts = to_device_of(divergence, labels.clamp(min=1))
    return (divergence.masked_fill(~valid, 0.0).sum(1) / counts).mean()


def splice(
    signal: Tensor, lengths: Tensor, labels: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Replace about `share` of a batch by the beginning of an utterance followed by the end of another.

    Nobody knows the transcript of the result, but a teacher knows its posteriors: a small corpus gains sentences. Draws
    from PyTorch's global generator, which training seeds for every batch.

    Args:
        signal: `(B, S)`, zero past the lengths.
        lengths: valid samples `(B,)`, on the CPU, as what is drawn.
        labels: number of labels of each transcript `(B,)`, on the CPU.
        share: in [0, 1]; at least one utterance stays whole.

    Returns:
        signal `(B, S)`, lengths `(B,)`, about how many labels each utterance has now (float `(B,)`), and which of them
        are spliced (bool `(B,)`).
    """
    rows, width = signal.shape
    if not share:
        return signal, lengths, labels.float(), torch.zeros_like(lengths, dtype=torch.bool)
    count = min(int(share * rows + float(torch.rand([], device="cpu"))), rows - 1)
    first = torch.randperm(rows, device="cpu")[:count]
    second = (first + torch.randint(1, max(rows, 2), (count,), device="cpu")) % rows  # another one
    cuts = torch.empty(count, 2, device="cpu").uniform_(*CUTS)
    mixed, new_lengths, new_labels = signal.clone(), lengths.clone(), labels.float()
    spliced = torch.zeros_like(lengths, dtype=torch.bool)
    for row, other, (end, begin) in zip(first.tolist(), second.tolist(), cuts.tolist(), strict=True):
        head, rest = int(end * int(lengths[row])), int(lengths[other])
        tail = signal[other, int(begin * rest) : rest][: width - head]
        mixed[row, head : head + len(tail)] = tail
        mixed[row, head + len(tail) :] = 0.0
        new_lengths[row] = head + len(tail)
        new_labels[row] = end * labels[row] + len(tail) / rest * labels[other]
        spliced[row] = True
    return mixed, new_lengths, new_labels, spliced
