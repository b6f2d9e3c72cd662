"""Audio files with soundfile and numpy alone: any usual format in, 16 kHz mono float32 out, one clear line when bad.

torch is imported only for what needs it: to resample, and to average more than two channels.
"""

import io
import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from qat.system.errors import UserError

SAMPLE_RATE = 16_000
_HIGH_RATES = (22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
SOURCE_RATES = (8_000, 11_025, 12_000, 16_000, *_HIGH_RATES)
_PEAK_LIMIT = 4.0  # lossy codecs overshoot 1 a little; integers stored as floats overshoot it by thousands
_READABLE = "must be a whole WAV, FLAC, Ogg or MP3 file; copy or convert it again"
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
Samples = NDArray[np.float32]


def load_samples(path: str | Recording) -> Samples:
    """Reads a whole audio file as every model here takes it.

    Args:
        path: WAV, FLAC, Ogg (Vorbis, Opus), MP3: whatever libsndfile reads.

    Returns:
        Samples `(S,)` at 16 kHz, float32 in [-1, 1]. Other rates are resampled, several channels averaged; each
        kind is logged once.

    Raises:
        UserError: see `read_audio`; or the sample rate is not one of `SOURCE_RATES`.
    """
    path = Path(path) if isinstance(path, str) else path
    samples, rate = read_audio(path)
    if rate not in SOURCE_RATES:
        rates = ", ".join(map(str, SOURCE_RATES))
        raise UserError(f"{path}: sample rate is {rate} Hz; must be one of {rates}; resample it")
    if (channels := samples.shape[1]) > 1:
        _log_once(f"averaging the {channels} channels of recordings such as {path.name}", channels)
    if rate != SAMPLE_RATE:
        _log_once(f"resampling from {rate} Hz to {SAMPLE_RATE} Hz, for recordings such as {path.name}", rate)
    return np.clip(resample(average_channels(samples), rate), -1.0, 1.0)


def read_audio(path: str | Recording) -> tuple[Samples, int]:
    """Reads a whole audio file as it is.

    Args:
        path: WAV, FLAC, Ogg (Vorbis, Opus), MP3: whatever libsndfile reads.

    Returns:
        Samples `(S, channels)`, float32 in about [-1, 1] (lossy codecs overshoot a little), and their rate in Hz.

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
            frames, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _undecodable(path, error) from error
    if len(samples) < frames:
        raise UserError(
            f"{path}: is truncated: it holds {len(samples)} of {frames} samples; must be whole; copy it again"
        )
    _check_samples(samples, path)
    return samples, rate


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
        raise UserError(f"{path}: audio file holds zero samples; must be at least one")
    return float(info.frames / info.samplerate)


def average_channels(samples: Samples) -> Samples:
    """The mean over the channels of `(S, channels)`: `(S,)`."""
    if (
        samples.shape[1] <= 2
    ):  # two numbers have one sum; the sum of more depends on their order, which is torch's
        return samples.mean(axis=1)
    import torch

    mono: Samples = torch.from_numpy(samples).mean(dim=1).numpy()
    return mono


def resample(samples: Samples, source_rate: int) -> Samples:
    """Resamples `(S,)` from `source_rate` Hz to 16 kHz with torchaudio's windowed sinc."""
    if source_rate == SAMPLE_RATE:
        return samples
    import torch
    import torchaudio

    resampled: Samples = torchaudio.functional.resample(
        torch.from_numpy(samples), source_rate, SAMPLE_RATE
    ).numpy()
    return resampled


def _check_file(path: Recording) -> None:
    file = path.path if isinstance(path, TarMember) else path
    if not file.is_file():
        raise UserError(f"{path}: audio file not found; must be a file; check the path")
    if (path.size if isinstance(path, TarMember) else file.stat().st_size) == 0:
        raise UserError(f"{path}: audio file is empty (0 bytes); must be a whole recording; copy it again")


def _check_samples(samples: Samples, path: Recording) -> None:
    """Refuses samples `(S, channels)` that no recording holds, before anything can spread a NaN."""
    if len(samples) == 0:
        raise UserError(f"{path}: audio file holds zero samples; must be at least one")
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise UserError(f"{path}: audio holds NaN or infinity; must be finite samples in [-1, 1]")
    if peak > _PEAK_LIMIT:
        raise UserError(f"{path}: audio reaches {peak:.4g}; must be samples in [-1, 1]; scale it down")


_logged: set[int] = set()


def _log_once(message: str, key: int) -> None:
    if key not in _logged:
        _logged.add(key)
        _log.info(message)


def _undecodable(path: Recording, error: Exception) -> UserError:
    reason = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
    return UserError(f"{path}: is truncated, corrupt or not audio ({reason}); {_READABLE}")


def _check_complete(path: Recording, content: io.BytesIO | None) -> None:
    """Refuses what libsndfile repairs silently: truncated WAV (shorter data chunk) and Ogg (stops early)."""
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
        raise UserError(
            f"{path}: is truncated: the file ends before its audio does; must be whole; copy it again"
        )


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
