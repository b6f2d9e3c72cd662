"""Audio files with soundfile and numpy alone: any usual format in, 16 kHz mono float32 out, one clear line when bad.

torch is imported only for what needs it: to resample, and to average more than two channels.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from datamodules.audio_header import fault_of, is_believable, matches_flac_md5
from qat.system.errors import UserError

SAMPLE_RATE = 16_000
_HIGH_RATES = (22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
SOURCE_RATES = (8_000, 11_025, 12_000, 16_000, *_HIGH_RATES)
_PEAK_LIMIT = 4.0  # lossy codecs overshoot 1 a little; integers stored as floats overshoot it by thousands
_READABLE = "must be a whole WAV, FLAC, Ogg or MP3 file; copy or convert it again"
_BLOCK = 1 << 18  # samples that are read at a time where nobody knows how many there are
_USUAL_SAMPLES_PER_BYTE = 64
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
    check_rate(rate, path)
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
    size = check_file(path)
    with one_line(path), open_recording(path) as file:
        check_bytes(file, path)
        with ForwardFile(file) as audio:
            frames, rate, subtype = audio.frames, audio.samplerate, audio.subtype
            # otherwise no memory is taken on the header's word
            usual = frames <= _USUAL_SAMPLES_PER_BYTE * size
            samples = audio.read(frames, "float32", always_2d=True) if usual else _read_to_end(audio)
        file.seek(0)
        check_count(len(samples), frames, size, path)
        check_samples(samples, path)
        if not matches_flac_md5(file, samples, subtype):
            raise UserError(f"{path}: is corrupt: its MD5 is not that of its samples; {_READABLE}")
    return samples, rate


def read_duration(path: str | Recording) -> float:
    """Seconds of audio in a file, from its header; from its samples where the file cannot hold what the header counts.

    Raises:
        UserError: the file is missing, empty or not audio, or holds no samples.
    """
    path = Path(path) if isinstance(path, str) else path
    size = check_file(path)
    with one_line(path), open_recording(path) as file, ForwardFile(file) as audio:
        frames, rate = audio.frames, audio.samplerate
        if not is_believable(frames, size):
            frames = sum(map(len, _blocks(audio)))
    if frames == 0:
        raise UserError(f"{path}: audio file holds zero samples; must be at least one")
    return float(frames / rate)


def read_start(path: str | Recording, count: int) -> tuple[Samples, int]:
    """The first `count` samples of a file `(S, channels)`, fewer where it has no more, and their rate in Hz.

    Raises:
        UserError: the file is missing, empty or not audio.
    """
    path = Path(path) if isinstance(path, str) else path
    check_file(path)
    with one_line(path), open_recording(path) as file, ForwardFile(file) as audio:
        return audio.read(count, "float32", always_2d=True), audio.samplerate


class ForwardFile(soundfile.SoundFile):
    """An audio file that is read from its beginning to its end.

    After each read soundfile seeks where it can; some FLAC files say that one can seek in them, and fail.
    """

    def seekable(self) -> bool:
        """Never asked for."""
        return False


def _blocks(audio: soundfile.SoundFile) -> Iterator[Samples]:
    """Samples `(S, channels)`, until there are no more."""
    while len(block := audio.read(_BLOCK, "float32", always_2d=True)):
        yield block


def _read_to_end(audio: soundfile.SoundFile) -> Samples:
    return np.concatenate([np.zeros((0, audio.channels), np.float32), *_blocks(audio)])


def open_recording(path: Recording) -> BinaryIO:
    """The bytes of a recording, at their beginning."""
    return path.open("rb") if isinstance(path, Path) else path.read()


@contextmanager
def one_line(path: Recording) -> Iterator[None]:
    """Makes one line that names the file of whatever a decoder raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each decoder has its own
        raise _undecodable(path, error) from error


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


def is_file(path: Path) -> bool:
    """Whether there is a file; False also for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_file(path: Recording) -> int:
    """Bytes of the recording, at least 1."""
    file = path.path if isinstance(path, TarMember) else path
    if not is_file(file):
        raise UserError(f"{path}: audio file not found; must be a file; check the path")
    size = path.size if isinstance(path, TarMember) else file.stat().st_size
    if size == 0:
        raise UserError(f"{path}: audio file is empty (0 bytes); must be a whole recording; copy it again")
    return size


def check_bytes(file: BinaryIO, path: Recording) -> None:
    """Refuses what a decoder would repair in silence; see `fault_of`."""
    if fault := fault_of(file):
        raise UserError(f"{path}: {fault}; must be whole; copy it again")


def check_rate(rate: int, path: Recording) -> None:
    """Refuses a rate that is not resampled."""
    if rate not in SOURCE_RATES:
        rates = ", ".join(map(str, SOURCE_RATES))
        raise UserError(f"{path}: sample rate is {rate} Hz; must be one of {rates}; resample it")


def check_count(read: int, frames: int, size: int, path: Recording) -> None:
    """Refuses fewer samples than a header counts that a file of `size` bytes can hold."""
    if is_believable(frames, size) and read < frames:
        raise UserError(
            f"{path}: is truncated: it holds {read} of {frames} samples; must be whole; copy it again"
        )


def check_samples(samples: Samples, path: Recording) -> None:
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
