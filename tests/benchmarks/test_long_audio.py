"""Memory of long recordings, measured in a process of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from benchmarks.long_audio import peak_of, transcription, write_recording
from benchmarks.result_file import ROOT


def test_a_peak_is_that_of_the_command_alone() -> None:
    small, _ = peak_of([sys.executable, "-c", "pass"])
    large, seconds = peak_of([sys.executable, "-c", "b'x' * 200_000_000"])
    assert small < 100 and 200 < large - small + 20 < 300 and seconds > 0


def test_a_recording_is_as_long_as_asked(tmp_path: Path) -> None:
    info = soundfile.info(write_recording(tmp_path / "a.flac", 8.0))
    assert 8.0 <= info.duration < 30 and info.samplerate == 16_000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path: Path) -> None:
    shutil.copy(ROOT / "checkpoints" / "mini_crdnn" / "model.ckpt", tmp_path / "model.ckpt")
    peaks = [
        peak_of(
            transcription(
                tmp_path / "model.ckpt", write_recording(tmp_path / f"{minutes}.flac", 60 * minutes)
            )
        )[0]
        for minutes in (0.1, 2, 6)  # the first exports
    ][1:]
    assert peaks[1] < peaks[0] + 60 and peaks[1] < 1_000, peaks  # MB; in one piece it was 200 a minute
