"""Models that read a log-mel filterbank, and its features alike in a batch and alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import spectral_magnitude
from torch import Tensor, nn

from qat.layers.equalize import ScalePair
from qat.layers.masking import at_least_shortest, frame_mask, to_device_of
from qat.models.crdnn_pairs import batch_norms_of, scale_pairs_of
from qat.models.ctc import CTCModule

HOP_LENGTH = 160  # samples: 10 ms at 16 kHz


class FilterbankModule(CTCModule):
    """A CTC model whose frames are pooled from those of a filterbank, `options.time_pooling_size` at a time.

    Attributes:
        lobe: name of its CRDNN.
        hidden_readers: names of the layers that read what the CRDNN gives.
    """

    lobe: str
    hidden_readers: tuple[str, ...]
    options: Any

    @property
    def frame_samples(self) -> int:
        """See `CTCModule`."""
        return HOP_LENGTH * int(self.options.time_pooling_size)

    def emitted_frames(self, samples: int) -> int:
        """See `CTCModule`."""
        return max(1, (samples // HOP_LENGTH + 1) // int(self.options.time_pooling_size))

    def batch_norm_pairs(self) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Linear -> BatchNorm1d of each DNN block (the CNN blocks use LayerNorm)."""
        yield from batch_norms_of(self.get_submodule(self.lobe), self.lobe)

    def scale_pairs(self) -> Iterator[ScalePair]:
        """Those of the CRDNN; a guide of the attention reads its output as it is."""
        guided = "the attention's guide reads it as well" if getattr(self, "guide", None) is not None else ""
        yield from scale_pairs_of(self.get_submodule(self.lobe), self.lobe, self.hidden_readers, guided)


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
