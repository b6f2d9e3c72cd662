"""Audio as torch tensors: a file read whole, and a cache of decoded files."""

import torch
from torch import Tensor

from datamodules.audio_file import SAMPLE_RATE, Recording, load_samples


def load_audio(path: str | Recording) -> Tensor:
    """The signal `(S,)` of an audio file at 16 kHz, float32 in [-1, 1]; see `load_samples`.

    Raises:
        UserError: see `load_samples`.
    """
    return torch.from_numpy(load_samples(path))


class AudioCache:
    """Decoded audio kept in memory as int16 up to a limit; past the limit files are decoded every time.

    int16 halves the memory. It is exact for 16-bit files at 16 kHz; others are rounded to the nearest 2^-15.

    Args:
        limit_s: seconds of audio to keep, at least 0; 0 keeps nothing. Four hours take 460 MB.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit = int(limit_s * SAMPLE_RATE)
        self._kept = 0
        self._signals: dict[Recording, Tensor] = {}

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._limit > 0

    def load(self, path: Recording) -> Tensor:
        """As `load_audio`; the first and every later call give the same samples."""
        if not self.keeps:
            return load_audio(path)
        if (kept := self._signals.get(path)) is not None:
            return kept.to(torch.float32) / 32768.0
        signal = (load_audio(path) * 32768.0).round_().clamp_(-32768.0, 32767.0).to(torch.int16)
        if self._kept + signal.numel() <= self._limit:
            self._kept += signal.numel()
            self._signals[path] = signal
        return signal.to(torch.float32) / 32768.0
