"""Signal helpers of the mini corpus: pitch after resampling, level and margins after trimming."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.audio_file import SAMPLE_RATE
from datamodules.mini.audio import PEAK, CorpusError, need_program, resample, run, trim_and_level
from tests.datamodules.corpora import sine


def test_a_missing_program_is_one_clear_line():
    with pytest.raises(
        CorpusError, match="^missing program: no-such-program; must be installed, package some"
    ):
        need_program("no-such-program", "some-package")
    with pytest.raises(CorpusError, match="^missing program: no-such-program; must be installed$"):
        run(["no-such-program"])


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000 * 1.05])
def test_resampling_keeps_pitch_and_duration_of_a_rate(rate: float) -> None:
    time_s = np.arange(round(rate)) / rate
    signal = resample(np.sin(2 * np.pi * 440.0 * time_s).astype(np.float32), rate)
    assert abs(len(signal) - SAMPLE_RATE) <= 1 and signal.dtype == np.float32
    assert np.abs(np.fft.rfft(signal)).argmax() == pytest.approx(440, abs=1)
    assert resample(signal, SAMPLE_RATE) is not None and np.array_equal(resample(signal, SAMPLE_RATE), signal)


@pytest.mark.parametrize("before_s, after_s", [(0.0, 0.0), (0.5, 1.0)])
@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_trimming_leaves_150_ms_of_silence_and_a_common_level(
    before_s: float, after_s: float, gain: float
) -> None:
    silence = [np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (before_s, after_s)]
    signal = trim_and_level(np.concatenate([silence[0], gain * sine(0.5), silence[1]]))
    assert len(signal) / SAMPLE_RATE == pytest.approx(0.8, abs=0.02)
    inside = signal[round(0.2 * SAMPLE_RATE) : round(0.6 * SAMPLE_RATE)]
    assert float(np.sqrt(np.mean(inside**2))) == pytest.approx(0.075, rel=0.02)
    assert float(np.abs(signal).max()) <= PEAK and signal[0] == signal[-1] == 0.0


def test_silence_cannot_be_levelled() -> None:
    with pytest.raises(ValueError, match="the signal is silent"):
        trim_and_level(np.zeros(16_000, np.float32))
