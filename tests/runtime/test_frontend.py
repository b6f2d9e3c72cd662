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
    expected, actual = fbank(signal), OnnxFbank(fbank)(signal, torch.tensor([151, 151]))
    assert expected.shape == actual.shape == (2, 151, n_mels)
    # Both sum 400 float32 products, in another order: relative error 1e-6 of the loudest bin's amplitude, which at the
    # floor 80 dB below it is 1e-2 of the power, 0.05 dB. Features are normalised by deviations of about 10 dB.
    assert (expected - actual).abs().max() < 0.1
    assert (expected - actual).abs().mean() < 1e-3


def test_silence_is_the_floor() -> None:
    fbank = Fbank(sample_rate=16_000, n_mels=40)
    silence = torch.zeros(1, 4_000)
    torch.testing.assert_close(OnnxFbank(fbank)(silence, torch.tensor([26])), fbank(silence))


def test_the_floor_lies_below_the_maximum_of_the_valid_frames() -> None:
    fbank = Fbank(sample_rate=16_000, n_mels=40)
    signal = 1e-4 * torch.randn(1, 3_199, generator=torch.Generator().manual_seed(0))
    signal[:, -1] = 1.0  # in the frame after the last, which an utterance alone does not have
    alone = OnnxFbank(fbank)(signal, torch.tensor([20]))
    padded = torch.nn.functional.pad(signal, (0, 1_000))
    assert torch.equal(OnnxFbank(fbank)(padded, torch.tensor([20]))[:, :20], alone)
    assert not torch.equal(OnnxFbank(fbank)(padded, torch.tensor([26]))[:, :20], alone)
