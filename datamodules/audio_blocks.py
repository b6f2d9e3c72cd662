"""Audio files block by block, as every model here takes them: memory stays bounded whatever their length.

torch is imported only for what needs it: to resample, and to average more than two channels.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.audio_file import (
    SAMPLE_RATE,
    ForwardFile,
    Samples,
    average_channels,
    check_bytes,
    check_count,
    check_file,
    check_rate,
    check_samples,
    one_line,
    resample,
)

BLOCK_S = 10.0
FILTER_WIDTH, ROLLOFF = 6, 0.99  # of torchaudio's resampling: how far its window reaches


def sample_blocks(path: Path, block_s: float = BLOCK_S) -> Iterator[Samples]:
    """The samples of `load_samples` in turn: equal at 16 kHz, equal up to float32 rounding where they are resampled.

    Args:
        path: WAV, FLAC, Ogg (Vorbis, Opus), MP3: whatever libsndfile reads.
        block_s: seconds that are read at a time.

    Yields:
        Samples `(S,)` at 16 kHz, float32 in [-1, 1].

    Raises:
        UserError: see `load_samples`; a fault late in the file is found when its block is read.
    """
    resampler = None
    for samples, rate in raw_blocks(path, block_s):
        resampler = resampler or BlockResampler(rate)
        yield np.clip(resampler.push(average_channels(samples)), -1.0, 1.0)
    assert resampler is not None
    yield np.clip(resampler.finish(), -1.0, 1.0)


def raw_blocks(path: Path, block_s: float = BLOCK_S) -> Iterator[tuple[Samples, int]]:
    """The samples `(S, channels)` of a file in turn as they are, each with their rate in Hz; at least one block.

    Raises:
        UserError: see `load_samples`.
    """
    size, read = check_file(path), 0
    with one_line(path), path.open("rb") as file:
        check_bytes(file, path)
        with ForwardFile(file) as audio:
            frames, rate = audio.frames, audio.samplerate
            check_rate(rate, path)
            count = max(1, round(block_s * rate))
            while len(samples := audio.read(count, "float32", always_2d=True)) or not read:
                check_samples(samples, path)
                read += len(samples)
                yield samples, rate
    check_count(read, frames, size, path)


class BlockResampler:
    """`resample` of a signal that comes block by block.

    Each block is resampled with so much of its neighbours around it that its own samples see all that they depend on.

    Args:
        rate: Hz of the source.
    """

    def __init__(self, rate: int) -> None:
        divisor = math.gcd(rate, SAMPLE_RATE)
        self.rate, self.source, self.target = rate, rate // divisor, SAMPLE_RATE // divisor
        reach = math.ceil(FILTER_WIDTH * self.source / (ROLLOFF * min(self.source, self.target)))
        self.margin = self.source * math.ceil(reach / self.source)
        self.held: Samples = np.zeros(0, np.float32)
        self.done = 0  # of the held samples, those before which all is given out

    def push(self, samples: Samples) -> Samples:
        """Take up samples `(S,)`; those at 16 kHz that are complete with them."""
        if self.rate == SAMPLE_RATE:
            return samples
        self.held = np.concatenate([self.held, samples])
        count = (len(self.held) - self.done - self.margin) // self.source * self.source
        if count <= 0:
            return self.held[:0]
        end = self.done + count
        found = resample(self.held[: end + self.margin], self.rate)[self.place(self.done) : self.place(end)]
        dropped = max(0, end - self.margin)
        self.held, self.done = self.held[dropped:].copy(), end - dropped
        return found

    def finish(self) -> Samples:
        """The samples that are left at the end of the signal."""
        if len(self.held) == 0:
            return self.held
        return resample(self.held, self.rate)[self.place(self.done) :]

    def place(self, samples: int) -> int:
        """A multiple of `source` samples, in samples at 16 kHz."""
        return samples // self.source * self.target
