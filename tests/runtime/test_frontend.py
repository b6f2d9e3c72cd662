"""The exported filterbank against SpeechBrain's."""

from __future__ import annotations

import pytest
import torch
from speechbrain.lobes.features import Fbank

from qat.runtime.frontend import OnnxFbank


@pytest.mark.parametrize("n_mels", [40, 80])
@pytest.mark.parametrize("loudness", [1.0, 1e-3])
def test_features_equal_speechbrains(n_mels: int, loudness: float) -> None:
    fbank = Fbank(sample_rate=16_000, n_mels=n_mels)
    time = torch.arange(24_000) / 16_000
    tone = torch.sin(2 * torch.pi * 440 * time) * torch.linspace(
        0, 1, 24_000
    )  # 80 dB below the tone: rounding
    speechlike = torch.randn(24_000, generator=torch.Generator().manual_seed(0)) * tone.abs()
    signal = loudness * torch.stack([tone, speechlike])
    signal[1, 15_000:] = 0
    expected, actual = fbank(signal), OnnxFbank(fbank)(signal)
    assert expected.shape == actual.shape == (2, 151, n_mels)
    # Both sum 400 float32 products, in another order: relative error 1e-6 of the loudest bin's amplitude, which at the
    # floor 80 dB below it is 1e-2 of the power, 0.05 dB. Features are normalised by deviations of about 10 dB.
    assert (expected - actual).abs().max() < 0.1
    assert (expected - actual).abs().mean() < 1e-3


def test_silence_is_the_floor() -> None:
    fbank = Fbank(sample_rate=16_000, n_mels=40)
    torch.testing.assert_close(OnnxFbank(fbank)(torch.zeros(1, 4_000)), fbank(torch.zeros(1, 4_000)))
