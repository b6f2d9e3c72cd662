"""Showing an attention decoder where to look, by the alignment of a CTC model whose encoder it has.

An attention decoder finds the alignment between labels and frames by itself only after thousands of steps: until then
it is a language model. A CTC model of characters knows it (forced alignment, Graves 2006; here torchaudio's).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import forced_align

from datamodules.text import ALPHABET
from qat.models.checkpoint import read_checkpoint
from qat.system.errors import UserError

MARGIN = 3  # frames on both sides: a CTC model marks a character by one peak somewhere in it
FLOOR = 1e-4  # of the attention inside a window


class AttentionGuide:
    """The character head of a CTC model, on the encoder that it was trained with.

    It is no submodule of the model that it guides, so that checkpoints do not hold it.

    Args:
        path: checkpoint of a `CRDNNModule`.

    Raises:
        UserError: it has no head over the project's characters.
    """

    def __init__(self, path: str) -> None:
        state = read_checkpoint(path)["state_dict"]
        self.weight, self.bias = state.get("head.weight"), state.get("head.bias")
        if self.weight is None or len(self.weight) != len(ALPHABET) + 1:
            raise UserError(
                f"{path}: must be a CRDNN with a head of {len(ALPHABET) + 1} characters to guide attention"
            )

    @torch.no_grad()
    def windows(
        self, hidden: Tensor, frames: Tensor, texts: Sequence[str], pieces: Sequence[Sequence[str]]
    ) -> Tensor:
        """Frames that each label should attend to.

        Args:
            hidden: encoder states `(B, T, D)`.
            frames: valid ones `(B,)`.
            texts: B transcripts.
            pieces: of each, with the mark of a word's beginning.

        Returns:
            bool `(B, U, T)`, U the most pieces and one for the end; no frame where an utterance cannot be aligned.
        """
        assert self.weight is not None
        weight, bias = (item.to(hidden.device, torch.float32) for item in (self.weight, self.bias))
        scores = F.log_softmax(F.linear(hidden.float(), weight, bias), -1).cpu()
        shape = (len(texts), max(map(len, pieces)) + 1, hidden.shape[1])
        windows = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for row, (text, count) in enumerate(zip(texts, frames.tolist(), strict=True)):
            places = character_frames(scores[row, :count], text)
            first = -1  # the mark before the first word stands for no character
            for label, piece in enumerate(pieces[row] if places else []):
                last = first + len(piece) - 1
                begin, end = places[max(first, 0)], places[max(last, 0)]
                windows[row, label, max(begin - MARGIN, 0) : min(end + MARGIN + 1, count)] = True
                first += len(piece)
            if places:
                windows[row, len(pieces[row]), max(places[-1] - MARGIN, 0) : count] = True
        return windows.to(hidden.device)


def character_frames(scores: Tensor, text: str) -> list[int]:
    """Frame of each character of `text` in log posteriors `(T, C)` on the CPU; empty where there are too few frames."""
    labels = torch.tensor([[ALPHABET.index(character) + 1 for character in text]], device="cpu")
    repeats = int((labels[0, 1:] == labels[0, :-1]).sum())
    if len(scores) < labels.shape[1] + repeats:
        return []
    path = forced_align(scores[None].contiguous(), labels)[0][0].tolist()
    return [frame for frame, label in enumerate(path) if label and (not frame or path[frame - 1] != label)]


def guide_loss(attention: Tensor, windows: Tensor) -> Tensor:
    """Mean over labels of the negative logarithm of the attention `(B, U, T)` inside each label's window."""
    inside = (attention * windows).sum(-1)[windows.any(-1)]
    return -inside.clamp(min=FLOOR).log().mean() if inside.numel() else attention.sum() * 0.0
