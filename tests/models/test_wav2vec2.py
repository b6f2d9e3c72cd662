"""The Wav2Vec2 of Hugging Face: its forward."""

from __future__ import annotations

import torch

from qat.models.wav2vec2 import Wav2Vec2Module
from tests.conftest import build, noise


@torch.no_grad()
def test_our_wav2vec2_forward_equals_hugging_face() -> None:
    model = build("wav2vec2").eval()
    assert isinstance(model, Wav2Vec2Module)
    signal, lengths = noise(2, 1.0), torch.tensor([16_000, 16_000])
    theirs = model.hf(model.features(signal, lengths)[0]).logits
    torch.testing.assert_close(model(signal, lengths)[0], theirs, atol=1e-5, rtol=0)  # other order of sums
