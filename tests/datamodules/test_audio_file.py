import logging
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from datamodules import audio_file
from datamodules.audio_file import average_channels, load_samples, read_audio, read_duration
from tests.datamodules.corpora import endless_flac, error_of, piped_wav, sine, write_audio


def peak_frequency_hz(signal):
    signal = torch.from_numpy(signal)
    window = torch.hann_window(signal.numel())
    return torch.fft.rfft(signal * window).abs().argmax().item() * 16_000 / signal.numel()


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_formats_come_back_to_one_step_of_16_bit(tmp_path, suffix):
    samples = sine(0.5)
    signal = load_samples(write_audio(tmp_path / f"a{suffix}", samples))
    assert signal.dtype == np.float32 and signal.shape == (8_000,)
    np.testing.assert_allclose(signal, samples, atol=1 / 32768)  # 16-bit quantization


def test_opus_keeps_length_and_pitch(tmp_path):
    signal = load_samples(write_audio(tmp_path / "a.ogg", sine(1.0, 440.0)))
    assert signal.shape == (16_000,)
    assert peak_frequency_hz(signal) == pytest.approx(440.0, abs=1.0)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_rates_are_resampled_to_the_same_sine(tmp_path, rate, caplog):
    audio_file._logged.clear()
    with caplog.at_level(logging.INFO, logger=audio_file.__name__):
        paths = [write_audio(tmp_path / f"{i}.wav", sine(1.0, 440.0, rate), rate) for i in range(2)]
        signals = [load_samples(path) for path in paths]
    assert signals[0].shape == (16_000,)
    assert peak_frequency_hz(signals[0]) == pytest.approx(440.0, abs=1.0)
    middle = slice(1_000, 15_000)  # the filter has no past at the edges
    np.testing.assert_allclose(signals[0][middle], sine(1.0)[middle], atol=5e-3)  # ripple of a 6-lobe sinc
    assert [f"from {rate} Hz" in r.message for r in caplog.records] == [True], "one line for two files"


def test_frequencies_above_the_new_nyquist_are_removed(tmp_path):
    loud = load_samples(write_audio(tmp_path / "a.wav", sine(1.0, 12_000.0, 48_000), 48_000))
    assert np.abs(loud[1_000:15_000]).max() < 0.01


def test_stereo_is_averaged_and_logged_once(tmp_path, caplog):
    audio_file._logged.clear()
    left = sine(0.2)
    path = write_audio(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1))
    with caplog.at_level(logging.INFO, logger=audio_file.__name__):
        signals = [load_samples(path), load_samples(path)]
    np.testing.assert_allclose(signals[0], left / 2, atol=1 / 32768)
    assert [r.message for r in caplog.records] == ["averaging the 2 channels of recordings such as a.wav"]


def test_unusual_rate_is_refused(tmp_path):
    message = error_of(load_samples, write_audio(tmp_path / "a.wav", sine(0.1, rate=15_999), 15_999))
    assert "a.wav: sample rate is 15999 Hz; must be one of 8000, " in message


def test_missing_file_is_named(tmp_path):
    for call in (load_samples, read_duration):
        message = error_of(call, tmp_path / "no.wav")
        assert message == f"{tmp_path / 'no.wav'}: audio file not found; must be a file; check the path"


def test_empty_file_is_named(tmp_path):
    (tmp_path / "a.flac").touch()
    for call in (load_samples, read_duration):
        assert "a.flac: audio file is empty (0 bytes); must be a whole" in error_of(call, tmp_path / "a.flac")


def test_text_file_is_not_audio(tmp_path):
    (tmp_path / "a.wav").write_text("this is no audio at all\n" * 10)
    for call in (load_samples, read_duration):
        assert "is truncated, corrupt or not audio" in error_of(call, tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_truncated_file_is_refused(tmp_path, suffix, share):
    path = write_audio(tmp_path / f"a{suffix}", np.random.default_rng(0).uniform(-0.5, 0.5, 48_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "truncated" in error_of(load_samples, path)


def test_wav_with_a_chunk_before_its_data_is_whole(tmp_path):
    path = write_audio(tmp_path / "a.wav", sine(0.1))
    raw = path.read_bytes()
    at = raw.index(b"data")
    extra = b"LIST" + (5).to_bytes(4, "little") + b"hello\0"
    path.write_bytes(
        raw[:4] + (len(raw) + len(extra) - 8).to_bytes(4, "little") + raw[8:at] + extra + raw[at:]
    )
    assert load_samples(path).shape == (1_600,)


def test_zero_samples_are_refused(tmp_path):
    path = write_audio(tmp_path / "a.wav", np.zeros(0, np.float32))
    for call in (load_samples, read_duration):
        assert error_of(call, path).endswith("a.wav: audio file holds zero samples; must be at least one")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path, bad):
    samples = sine(0.1)
    samples[7] = bad
    path = write_audio(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert "a.wav: audio holds NaN or infinity; must be finite samples" in error_of(load_samples, path)


def test_integers_stored_as_floats_are_refused_and_small_overshoot_is_clipped(tmp_path):
    path = write_audio(tmp_path / "a.wav", sine(0.1) * 32767, subtype="FLOAT")
    assert "must be samples in [-1, 1]" in error_of(load_samples, path)
    path = write_audio(tmp_path / "b.wav", sine(0.1) * 2.2, subtype="FLOAT")
    assert np.abs(load_samples(path)).max() == 1.0


def test_duration_comes_from_the_header(tmp_path):
    assert read_duration(write_audio(tmp_path / "a.flac", sine(0.75, rate=8_000), 8_000)) == 0.75


def test_a_file_is_read_as_it_is_before_anything_is_averaged_or_resampled(tmp_path):
    stereo = np.stack([sine(0.2, rate=8_000), -sine(0.2, rate=8_000)], axis=1)
    samples, rate = read_audio(write_audio(tmp_path / "a.wav", stereo, 8_000, subtype="FLOAT"))
    assert rate == 8_000
    np.testing.assert_array_equal(samples, stereo)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
def test_channels_are_averaged_bit_for_bit_as_torch_does(channels):
    samples = np.random.default_rng(0).uniform(-1.0, 1.0, (1_000, channels)).astype(np.float32)
    np.testing.assert_array_equal(average_channels(samples), torch.from_numpy(samples).mean(dim=1).numpy())


@pytest.mark.parametrize("channels", [1, 2])
def test_audio_at_16_khz_is_read_without_torch(tmp_path, channels):
    path = write_audio(tmp_path / "a.flac", np.stack([sine(0.1)] * channels, axis=1))
    program = (
        "import sys; from datamodules.audio_file import load_samples; "
        f"print(load_samples({str(path)!r}).shape, {{'torch', 'torchaudio'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1600,) set()"


def write_bytes(path, content):
    path.write_bytes(content)
    return path


def test_a_flac_of_unknown_length_lasts_as_long_as_its_samples(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 300_001).astype(np.float32)
    path = write_bytes(tmp_path / "a.flac", endless_flac(samples))
    assert read_duration(path) == 300_001 / 16_000
    np.testing.assert_array_equal(load_samples(path), load_samples(write_audio(tmp_path / "b.flac", samples)))
    cut = write_bytes(tmp_path / "cut.flac", path.read_bytes()[:-1_000])
    for call in (load_samples, read_duration):
        assert "cut.flac: is truncated, corrupt or not audio" in error_of(call, cut)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_lasts_as_long_as_its_samples(tmp_path, size):
    path = write_bytes(tmp_path / "a.wav", piped_wav(sine(0.5), size))
    assert read_duration(path) == 0.5
    np.testing.assert_array_equal(
        load_samples(path), load_samples(write_audio(tmp_path / "b.wav", sine(0.5)))
    )


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "GSM610"), ("AIFF", "GSM610"), ("AU", "G721_32")])
def test_codecs_in_which_nothing_can_seek_are_read(tmp_path, kind, subtype):
    path = tmp_path / "a.audio"
    soundfile.write(path, sine(1.0, rate=8_000), 8_000, format=kind, subtype=subtype)
    signal = load_samples(path)
    assert read_duration(path) == len(signal) / 16_000 == pytest.approx(1.0, abs=0.05)  # in whole blocks
    assert peak_frequency_hz(signal) == pytest.approx(440.0, abs=1.0)


def test_a_flac_header_that_counts_too_few_samples_is_refused(tmp_path):
    path = write_audio(tmp_path / "a.flac", sine(1.0))
    content = bytearray(path.read_bytes())
    content[22:26] = (9_000).to_bytes(4)
    assert "a.flac: is corrupt: its MD5" in error_of(load_samples, write_bytes(path, bytes(content)))


def test_a_header_that_asks_for_more_memory_than_there_is_takes_none(tmp_path):
    path = write_audio(tmp_path / "a.flac", sine(1.0))
    content = bytearray(path.read_bytes())
    content[22:26] = (2_000 * len(content)).to_bytes(4)
    assert "a.flac: is truncated" in error_of(load_samples, write_bytes(path, bytes(content)))


@pytest.mark.parametrize("kind", [ValueError, MemoryError, OSError, TypeError])
def test_whatever_a_decoder_raises_becomes_one_line(tmp_path, monkeypatch, kind):
    path = write_audio(tmp_path / "a.wav", sine(0.1))

    def fail(*arguments, **keywords):
        raise kind("first\nsecond")

    monkeypatch.setattr(soundfile.SoundFile, "__init__", fail)
    for call in (load_samples, read_duration):
        assert "a.wav: is truncated, corrupt or not audio (first second)" in error_of(call, path)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_not_found(tmp_path, name):
    assert "audio file not found" in error_of(load_samples, tmp_path / name)
