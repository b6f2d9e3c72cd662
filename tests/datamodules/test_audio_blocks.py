"""Audio files read block by block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio_blocks import sample_blocks
from datamodules.audio_file import load_samples
from qat.system.errors import UserError


def write(path: Path, rate: int, channels: int = 1, seconds: float = 2.3) -> Path:
    """Noise."""
    samples = 0.3 * np.random.default_rng(0).standard_normal((int(rate * seconds), channels))
    soundfile.write(path, samples.clip(-1, 1), rate)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_blocks_at_16_khz_are_the_samples_of_the_whole_file(tmp_path: Path, channels: int) -> None:
    path = write(tmp_path / "a.wav", 16_000, channels)
    blocks = list(sample_blocks(path, block_s=0.5))
    assert max(map(len, blocks)) == 8_000
    assert np.array_equal(np.concatenate(blocks), load_samples(path))


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_blocks_of_another_rate_are_resampled_as_the_whole_file_is(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", rate, seconds=1.237)
    whole = load_samples(path)
    for block_s in (0.01, 0.3, 10.0):
        found = np.concatenate(list(sample_blocks(path, block_s)))
        assert found.shape == whole.shape
        assert np.abs(found - whole).max() < 1e-6  # sums of the same products in another order


def test_what_cannot_be_read_whole_cannot_be_read_in_blocks(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.flac", 16_000).read_bytes()
    (tmp_path / "torn.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.wav").touch()
    write(tmp_path / "odd.wav", 10_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1] * 9_000 + [np.nan]), 16_000, subtype="FLOAT")
    for name in ("torn.flac", "empty.wav", "odd.wav", "none.wav", "nan.wav", "absent.wav"):
        with pytest.raises(UserError) as by_block:
            list(sample_blocks(tmp_path / name, block_s=0.5))
        with pytest.raises(UserError) as at_once:
            load_samples(tmp_path / name)
        assert str(by_block.value).split(";")[-1] == str(at_once.value).split(";")[-1]
        assert str(tmp_path / name) in str(by_block.value)
