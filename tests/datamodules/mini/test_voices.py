"""The voices: shares, held-out ones, and what the programs are asked for."""

from __future__ import annotations

import importlib.util
import io

import numpy as np
import pytest
import soundfile

from datamodules.mini import voices
from datamodules.mini.audio import CorpusError
from datamodules.mini.voices import SYNTHESISERS, VOICES, Sentence, check_engines, read_wav, synthesise
from tests.datamodules.corpora import HELD_OUT, sine


def wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_shares_of_the_training_voices_sum_to_one_and_held_out_voices_have_none() -> None:
    assert sum(voice.weight for voice in VOICES.values()) == pytest.approx(1.0)
    assert {voice.name for voice in VOICES.values() if voice.heldout} == HELD_OUT
    assert all((voice.weight == 0.0) == voice.heldout for voice in VOICES.values())
    assert {voice.engine for voice in VOICES.values()} == set(SYNTHESISERS)


def test_a_wave_file_gives_its_first_channel() -> None:
    left = sine(0.1, rate=22_050)
    signal, rate = read_wav(wav(np.stack([left, np.zeros_like(left)], axis=1), 22_050))
    assert rate == 22_050
    np.testing.assert_array_equal(signal, left)


def test_espeak_is_asked_for_rate_and_pitch_and_gives_16_khz(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    output = wav(sine(0.5, rate=22_050), 22_050)
    monkeypatch.setattr(voices, "run", lambda command: commands.append(command) or output)
    (signal,) = synthesise([Sentence("k", "turn on", "train", "espeak-us-f3", 1.1, 1.05, 1)])
    assert commands == [["espeak-ng", "-v", "en-us+f3", "-s", "165", "-p", "58", "--stdout", "turn on"]]
    assert len(signal) == 8_000 and signal.dtype == np.float32


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match="^missing Python package: hibari-tts; must be installed"):
        check_engines([VOICES["hibari-heart"]])
