"""Audio files: any usual format and rate in, 16 kHz mono float32 out, one clear line when a file is bad."""

import io
import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from qat.system.errors import UserError

SAMPLE_RATE = 16_000
_HIGH_RATES = (22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
SOURCE_RATES = (8_000, 11_025, 12_000, 16_000, *_HIGH_RATES)
_PEAK_LIMIT = 4.0  # lossy codecs overshoot 1 a little; integers stored as floats overshoot it by thousands
_READABLE = "allowed are WAV, FLAC, Ogg and MP3"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarMember:
    """An audio file inside an uncompressed tar file.

    Attributes:
        path: the tar file.
        offset: first byte of the audio file in it.
        size: bytes of the audio file.
        name: of the member.
    """

    path: Path
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}, {self.name}"

    def read(self) -> io.BytesIO:
        """The audio file."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


Recording = Path | TarMember


def load_audio(path: str | Recording) -> Tensor:
    """Reads a whole audio file.

    Args:
        path: WAV, FLAC, Ogg (Vorbis, Opus), MP3: whatever libsndfile reads.

    Returns:
        Signal `(S,)` at 16 kHz, float32 in [-1, 1]. Other rates are resampled, several channels averaged; the
        log says so once per kind.

    Raises:
        UserError: the file is missing, empty, truncated or undecodable, or holds no samples, NaN, infinity or
            samples far outside [-1, 1].
    """
    path = Path(path) if isinstance(path, str) else path
    _check_file(path)
    try:
        content = path.read() if isinstance(path, TarMember) else None
        _check_complete(path, content)
        with soundfile.SoundFile(path if content is None else content) as file:
            frames, rate, channels = file.frames, file.samplerate, file.channels
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(path, error) from error
    if len(samples) < frames:
        raise UserError(f"{path}: is truncated: the header says {frames} samples, it holds {len(samples)}")
    return _to_mono_16k(_check_samples(samples, path), rate, channels, path)


def read_duration(path: str | Recording) -> float:
    """Seconds of audio in a file, from its header alone.

    Raises:
        UserError: the file is missing, empty or not audio, or holds no samples.
    """
    path = Path(path) if isinstance(path, str) else path
    _check_file(path)
    try:
        info = soundfile.info(path.read() if isinstance(path, TarMember) else path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(path, error) from error
    if info.frames == 0:
        raise UserError(f"{path}: audio file holds zero samples")
    return float(info.frames / info.samplerate)


def resample(signal: Tensor, source_rate: int) -> Tensor:
    """Resamples `(..., S)` from `source_rate` Hz to 16 kHz with torchaudio's windowed sinc."""
    resampled: Tensor = torchaudio.functional.resample(signal, source_rate, SAMPLE_RATE)
    return resampled


def _check_file(path: Recording) -> None:
    file = path.path if isinstance(path, TarMember) else path
    if not file.is_file():
        raise UserError(f"{path}: audio file not found")
    if (path.size if isinstance(path, TarMember) else file.stat().st_size) == 0:
        raise UserError(f"{path}: audio file is empty (0 bytes)")


def _check_samples(samples: np.ndarray, path: Recording) -> Tensor:
    """Samples `(S, channels)` to a mono signal `(S,)`, checked before anything can spread a NaN."""
    if len(samples) == 0:
        raise UserError(f"{path}: audio file holds zero samples")
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise UserError(f"{path}: audio holds NaN or infinity; allowed are finite samples in [-1, 1]")
    if peak > _PEAK_LIMIT:
        raise UserError(f"{path}: audio reaches {peak:.4g}; allowed are samples in [-1, 1]")
    return torch.from_numpy(samples).mean(dim=1)


def _to_mono_16k(signal: Tensor, rate: int, channels: int, path: Recording) -> Tensor:
    if rate not in SOURCE_RATES:
        raise UserError(f"{path}: sample rate {rate} Hz; allowed are {', '.join(map(str, SOURCE_RATES))}")
    if channels > 1:
        _say_once(f"averaging the {channels} channels of recordings such as {path.name}", channels)
    if rate != SAMPLE_RATE:
        _say_once(f"resampling from {rate} Hz to {SAMPLE_RATE} Hz, for recordings such as {path.name}", rate)
        signal = resample(signal, rate)
    return signal.clamp_(-1.0, 1.0)


_said: set[int] = set()


def _say_once(message: str, key: int) -> None:
    if key not in _said:
        _said.add(key)
        _log.info(message)


def _undecodable(path: Recording, error: Exception) -> UserError:
    reason = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
    return UserError(f"{path}: is truncated, corrupt or not audio ({reason}); {_READABLE}")


def _check_complete(path: Recording, content: io.BytesIO | None) -> None:
    """Finds what libsndfile repairs in silence: truncated WAV (shorter data chunk) and Ogg (stops early)."""
    with path.open("rb") if isinstance(path, Path) else nullcontext(content) as file:
        assert file is not None
        magic = file.read(12)
        if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            missing = _wav_bytes_missing(file)
        elif magic[:4] == b"OggS":
            missing = _ogg_end_missing(file)
        else:
            missing = 0
        file.seek(0)
    if missing:
        raise UserError(f"{path}: is truncated: the file ends before its audio does")


def _wav_bytes_missing(file: BinaryIO) -> int:
    """Bytes of the data chunk past the end of the file; 0 for streams of unknown length (size -1)."""
    size = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return 0 if length >= 0x7FFFFFFF else max(0, position + 8 + length - size)
        position += 8 + length + length % 2
    return 0


def _ogg_end_missing(file: BinaryIO) -> int:
    """1 unless the file's last Ogg page is whole and carries the end-of-stream flag (RFC 3533, section 6)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 131_072))  # a page is at most 65,307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or page + 27 > len(tail):
        return 1
    segments = tail[page + 26]
    table = tail[page + 27 : page + 27 + segments]
    whole = len(table) == segments and page + 27 + segments + sum(table) <= len(tail)
    return 0 if whole and tail[page + 5] & 4 else 1


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
