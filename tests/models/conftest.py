"""What the tests of the models share."""

from __future__ import annotations

import torch

from tests.conftest import noise


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three utterances of seeded noise `(3, 24000)` and their lengths."""
    signal, lengths = noise(3, 1.5), torch.tensor([24_000, 17_000, 9_000])
    for row, length in enumerate(lengths.tolist()):
        signal[row, length:] = 0
    return signal, lengths
