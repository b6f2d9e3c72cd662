import numpy as np
import pytest
import torch

from datamodules.audio import AudioCache, load_audio
from datamodules.audio_file import load_samples
from tests.datamodules.corpora import error_of, sine, write_audio


def test_audio_is_a_tensor_of_the_samples_in_its_file(tmp_path):
    path = write_audio(tmp_path / "a.wav", sine(0.2, rate=8_000), 8_000)
    signal = load_audio(path)
    assert signal.dtype == torch.float32
    np.testing.assert_array_equal(signal.numpy(), load_samples(str(path)))


@pytest.mark.parametrize("suffix, step", [(".ogg", 0.5 / 32768), (".flac", 0.0)])
def test_cache_repeats_itself_and_rounds_to_16_bit(tmp_path, suffix, step):
    path = write_audio(tmp_path / f"a{suffix}", sine(0.5))
    cache, direct = AudioCache(limit_s=10.0), load_audio(path)
    first = cache.load(path)
    path.unlink()
    assert torch.equal(first, cache.load(path))
    assert (first - direct).abs().max() <= step


def test_cache_clips_full_scale_without_wrapping_round(tmp_path):
    path = write_audio(tmp_path / "a.wav", np.array([1.0, -1.0], np.float32), subtype="FLOAT")
    assert AudioCache(limit_s=1.0).load(path).tolist() == [32767 / 32768, -1.0]


def test_cache_stops_at_its_limit(tmp_path):
    cache = AudioCache(limit_s=0.6)
    paths = [write_audio(tmp_path / f"{i}.wav", sine(0.5)) for i in range(2)]
    for path in paths:
        cache.load(path)
        path.unlink()
    assert cache.load(paths[0]).numel() == 8_000
    assert "audio file not found" in error_of(cache.load, paths[1])


def test_cache_without_limit_reads_the_file_bit_by_bit(tmp_path):
    path = write_audio(tmp_path / "a.ogg", sine(0.5))
    assert torch.equal(AudioCache(0.0).load(path), load_audio(path))
