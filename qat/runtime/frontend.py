"""The log-mel front end in operators that an exported file can hold."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from speechbrain.lobes.features import Fbank
from torch import Tensor, nn

from qat.layers.masking import frame_mask


class OnnxFbank(nn.Module):
    """SpeechBrain's `Fbank` as a convolution with a windowed Fourier basis, a mel product and a logarithm.

    Equal to `Fbank` up to float32 rounding: an FFT and a plain sum of 400 products round differently, which shows
    where a filter's power lies far below the utterance's maximum (see the test's tolerance).

    Args:
        fbank: a frozen `Fbank` without deltas and context; the source of window, filters and floors.
    """

    def __init__(self, fbank: Fbank) -> None:
        super().__init__()
        stft, mel = fbank.compute_STFT, fbank.compute_fbanks
        self.hop_length, self.padding = stft.hop_length, stft.n_fft // 2
        self.multiplier, self.amin, self.top_db = float(mel.multiplier), mel.amin, mel.top_db
        self.offset = float(mel.multiplier * mel.db_multiplier)
        self.register_buffer("basis", fourier_basis(stft.window, stft.n_fft))
        centres = mel.f_central.repeat(mel.all_freqs_mat.shape[1], 1).transpose(0, 1)
        bands = mel.band.repeat(mel.all_freqs_mat.shape[1], 1).transpose(0, 1)
        self.register_buffer("filters", mel._create_fbank_matrix(centres, bands).contiguous())
        self.basis: Tensor
        self.filters: Tensor

    def forward(self, signal: Tensor, frames: Tensor) -> Tensor:
        """Samples `(B, S)` -> log-mel filterbanks in dB `(B, S // hop + 1, F)`, floored `top_db` below the maximum of
        the valid `frames (B,)`."""
        padded = F.pad(signal, (self.padding, self.padding)).unsqueeze(1)
        real, imaginary = F.conv1d(padded, self.basis, stride=self.hop_length).chunk(2, dim=1)
        power = (real * real + imaginary * imaginary).transpose(1, 2)
        decibel = torch.log(torch.clamp(power @ self.filters, min=self.amin)) * (
            self.multiplier / math.log(10.0)
        )
        decibel = decibel - self.offset
        valid = frame_mask(frames, decibel)
        loudest = decibel.amax(dim=2).masked_fill(~valid, -torch.inf).amax(dim=1)
        return torch.maximum(decibel, loudest[:, None, None] - self.top_db)


def fourier_basis(window: Tensor, n_fft: int) -> Tensor:
    """Windowed cosines, then negative sines, of the real Fourier transform: `(2 (n_fft // 2 + 1), 1, n_fft)`.

    A window shorter than `n_fft` is centred, as in `torch.stft`.
    """
    left = (n_fft - window.numel()) // 2
    full = F.pad(window.double(), (left, n_fft - window.numel() - left))
    bins, times = torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
    angle = 2 * math.pi * ((bins[:, None] * times[None, :]) % n_fft).double() / n_fft
    return (torch.cat([angle.cos(), -angle.sin()]) * full).float().unsqueeze(1)
