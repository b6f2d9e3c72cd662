"""Models that read a log-mel filterbank, and its features alike in a batch and alone."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import spectral_magnitude
from torch import Tensor

from qat.layers.masking import at_least_shortest, frame_mask, to_device_of
from qat.models.ctc import CTCModule

HOP_LENGTH = 160  # samples: 10 ms at 16 kHz


class FilterbankModule(CTCModule):
    """A CTC model whose frames are pooled from those of a filterbank, `options.time_pooling_size` at a time."""

    options: Any

    @property
    def frame_samples(self) -> int:
        """See `CTCModule`."""
        return HOP_LENGTH * int(self.options.time_pooling_size)

    def emitted_frames(self, samples: int) -> int:
        """See `CTCModule`."""
        return max(1, (samples // HOP_LENGTH + 1) // int(self.options.time_pooling_size))


def log_mel_of(fbank: Any, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Log-mel filterbanks in dB `(B, T, F)`, floored 80 dB below the maximum of the valid frames, and those `(B,)`.

    Args:
        fbank: SpeechBrain's, or what is exported for it.
        signal: samples `(B, S)`, zero-padded; fewer than `SHORTEST` are padded to as many.
        lengths: valid samples `(B,)`.
    """
    signal, frames = at_least_shortest(signal), lengths // HOP_LENGTH + 1
    with torch.autocast(signal.device.type, enabled=False):
        if not isinstance(fbank, Fbank):
            return fbank(signal.float(), frames), frames
        power = spectral_magnitude(fbank.compute_STFT(signal.float()))
        valid = frame_mask(frames, power).unsqueeze(-1)
        return fbank.compute_fbanks(power.masked_fill(~valid, 0.0)), frames


def normalise_features(log_mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Zero mean and unit variance per utterance and channel over valid frames; padding becomes zero.

    Args:
        log_mel: `(B, T, F)`, dB.
        frames: valid frames `(B,)`.
    """
    mask = frame_mask(frames, log_mel).unsqueeze(-1)
    count = to_device_of(log_mel, frames).to(log_mel.dtype)[:, None, None]
    mean = log_mel.masked_fill(~mask, 0.0).sum(1, keepdim=True) / count
    centred = (log_mel - mean).masked_fill(~mask, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + 1e-5).sqrt(), frames
