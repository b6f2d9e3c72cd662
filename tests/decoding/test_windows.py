"""Recordings longer than a limit, read in overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.audio_file import load_samples
from datamodules.mini_corpus import MiniDataModule
from qat.decoding.ctc import GreedyCTC
from qat.decoding.recogniser import Emission
from qat.decoding.windows import (
    SAMPLE_RATE,
    Frames,
    Window,
    WindowedRecogniser,
    check_window,
    joined,
    quietest,
    seam_frame,
    windows,
)
from qat.evaluation.module_side import ModuleLogits
from qat.models.loading import load_module
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.conftest import ROOT
from tests.runtime.mini import float_file

STEP = 480  # samples a frame
LETTERS = GreedyCTC(["", " ", *"abcdefgh"])


def speech(seconds: float, seed: int = 0, pause_s: float = 0.6) -> NDArray[np.float32]:
    """Words of one letter each, told by their pitch, with pauses between them."""
    rng, parts = np.random.default_rng(seed), []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        samples = np.arange(int(SAMPLE_RATE * rng.uniform(0.1, 0.3)))
        parts += [np.sin(2 * np.pi * rng.integers(1, 8) / 50 * samples), np.zeros(int(SAMPLE_RATE * pause_s))]
    return np.concatenate(parts).astype(np.float32)


@dataclass
class Local:
    """A model whose frame hears its own samples alone: the letter of their pitch, blank in silence."""

    frames: Frames = field(default_factory=lambda: Frames(STEP, 0))
    lengths: list[int] = field(default_factory=list)

    def emit(self, signal: NDArray[Any]) -> Emission:
        """One label a frame, and its loudness beside it."""
        self.lengths.append(len(signal))
        pieces = signal[: len(signal) // STEP * STEP].reshape(-1, STEP)
        pitch = (np.abs(np.diff(np.signbit(pieces), axis=1)).sum(1) * 50 / STEP / 2).round().astype(int)
        logits = np.zeros((len(pieces), 10))
        logits[np.arange(len(pieces)), np.where(pitch > 0, pitch + 1, 0)] = 1 + np.abs(pieces).mean(1)
        return Emission(logits)

    def text_of(self, emission: Emission) -> str:
        """Greedy."""
        return LETTERS.decode(emission.logits)

    def transcribe(self, signal: NDArray[Any]) -> str:
        """All at once."""
        return self.text_of(self.emit(signal))


class Searching:
    """A model that is searched: a word is a letter, told by how long it is spoken."""

    def emit(self, signal: NDArray[Any]) -> Emission:
        """The lengths of the words in samples, one a frame."""
        spoken = np.convolve(signal != 0, np.ones(160), "same") > 0
        edges = np.flatnonzero(np.diff(np.concatenate([[0], spoken, [0]])))
        return Emission((edges[1::2] - edges[::2])[:, None])

    def text_of(self, emission: Emission) -> str:
        """Leaves tokens."""
        emission.tokens = [int(length) // 160 for length in emission.logits[:, 0]]
        return " ".join(map(str, emission.tokens))

    def transcribe(self, signal: NDArray[Any]) -> str:
        """All at once."""
        return self.text_of(self.emit(signal))


@pytest.mark.parametrize("seconds", [41, 95, 300])
@pytest.mark.parametrize("pause_s", [0.6, 0.0])
def test_joined_logits_are_those_of_one_piece_where_frames_hear_little(seconds: int, pause_s: float) -> None:
    signal, model = speech(seconds, seconds, pause_s), Local()
    whole = model.emit(signal).logits
    model.lengths.clear()
    windowed = WindowedRecogniser(model, 40)
    found = windowed.emit(signal)
    assert np.array_equal(found.logits, whole) and windowed.text_of(found) == model.transcribe(signal)
    assert max(model.lengths[:-1]) <= 40 * SAMPLE_RATE and len(model.lengths) > 1


def test_blocks_give_what_the_whole_signal_gives_and_progress_is_told() -> None:
    signal, told = speech(130), []
    windowed = WindowedRecogniser(Local(), 40, told.append)
    blocks = np.split(signal, np.arange(1, 40) * len(signal) // 40)
    assert (
        windowed.transcribe_blocks(iter(blocks)) == windowed.transcribe(signal) == Local().transcribe(signal)
    )
    assert told == sorted(told[: len(told) // 2]) * 2 and told[-1] == len(signal) / SAMPLE_RATE


def test_a_short_recording_is_read_as_ever() -> None:
    signal, model = speech(39)[: 40 * SAMPLE_RATE], Local()
    windowed = WindowedRecogniser(model, 40)
    assert np.array_equal(windowed.emit(signal).logits, model.emit(signal).logits)
    assert windowed.transcribe(signal) == model.transcribe(signal)
    assert set(model.lengths) == {len(signal)}


def test_pieces_between_pauses_are_searched_alone_and_their_texts_joined() -> None:
    signal, model = speech(100), Searching()
    windowed, whole = WindowedRecogniser(model, 40), model.emit(signal)
    found = windowed.emit(signal)
    assert windowed.text_of(found) == windowed.transcribe(signal) == model.text_of(whole)
    assert found.tokens == whole.tokens and np.array_equal(found.logits, whole.logits)
    assert [len(piece) for piece in windowed.pieces(signal[: 16_000 * 30])] == [16_000 * 30]


def test_windows_cover_a_recording_and_overlap_by_what_was_asked() -> None:
    signal = speech(200)
    cut = list(windows([signal], 640_000, 32_000, STEP))
    assert cut[0].start == cut[0].begin == 0 and cut[-1].end == len(signal)
    for before, after in zip(cut, cut[1:], strict=False):
        assert before.end == after.begin and after.begin % STEP == after.start % STEP == 0
        overlap = after.begin - after.start
        assert (
            32_000 <= overlap < 32_000 + STEP and before.start + len(before.signal) == after.begin + overlap
        )
    for window in cut:
        assert len(window.signal) <= 640_000
        assert np.array_equal(window.signal, signal[window.start : window.start + len(window.signal)])


def test_a_seam_lies_where_nobody_speaks() -> None:
    signal = speech(200, pause_s=0.7)
    for window in list(windows([signal], 640_000, 32_000))[:-1]:
        assert not signal[window.end - 1_600 : window.end + 1_600].any()
    noise = np.random.default_rng(0).standard_normal(100_000)
    noise[60_000:70_000] *= 0.5
    assert 60_000 < quietest(noise, 20_000, 90_000) < 70_000
    assert quietest(noise, 100, 200) == 150, "too narrow to choose"


def test_windows_are_joined_at_the_blank_nearest_to_the_seam() -> None:
    speech, pause = np.eye(2)[np.ones(8, int)], np.eye(2)[[1, 1, 1, 1, 1, 0, 1, 1]]
    assert seam_frame(speech, speech, 0, 4) == seam_frame(pause, speech, 0, 4) == 4, "no common blank"
    assert seam_frame(pause, pause, 0, 4) == 5
    assert seam_frame(pause[1:], pause[1:], 0, 4) == 4


def test_no_label_is_doubled_where_one_window_hears_it_later() -> None:
    """The letter at the seam is one frame late in the second window."""
    first, second = np.array([0, 0, 0, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 1, 1, 0, 0, 2])
    parts = [
        (Window(0, np.zeros(7), 0, 5), np.eye(3)[first]),
        (Window(0, np.zeros(9), 5, 9), np.eye(3)[second]),
    ]
    assert GreedyCTC(["", "a", "b"]).decode(joined(parts, Frames(1, 0))) == "ab"


def test_too_short_windows_are_refused() -> None:
    with pytest.raises(UserError, match="window_s: 9, must be whole seconds of 10 or more"):
        check_window(9)
    with pytest.raises(UserError, match="window_s"):
        WindowedRecogniser(Local(), 0)


def two_minutes() -> NDArray[np.float32]:
    """One voice's sentences in turn, with pauses: what a window holds is like what the whole holds.

    Models that normalise a whole recording and attend to all of it give other frames where the two are unlike.
    """
    spoken = {
        item.text: item for item in MiniDataModule().utterances("train") if item.speaker == "festival-slt"
    }
    texts = ("wake me in thirteen seconds", "friday the fifteenth of september")
    parts = [
        part for text in texts for part in (load_samples(spoken[text].audio), np.zeros(12_000, np.float32))
    ]
    return np.concatenate(parts * 30)[: 120 * SAMPLE_RATE]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_crdnn", "mini_wav2vec2"])
def test_two_minutes_have_one_text_in_one_piece_and_in_windows_in_file_and_module(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    module = load_module(ROOT / "checkpoints" / name / "model.ckpt")
    session, signal = Session(float_file(tmp_path_factory, name)), two_minutes()
    windowed = WindowedRecogniser(session, 40).transcribe(signal)
    assert len(windowed) > 1_000 and windowed == session.transcribe(signal)
    assert WindowedRecogniser(ModuleLogits(module, session), 40).transcribe(signal) == windowed
