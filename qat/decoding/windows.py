"""Recordings longer than a limit, read in overlapping windows: memory stays bounded whatever their length.

Seams lie where a recording is quietest, so they follow from the audio alone: a file and its module have the same ones.
Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qat.decoding.recogniser import Emission, Recogniser
from qat.system.errors import UserError

SAMPLE_RATE = 16_000
WINDOW_S = 40  # no recording of LibriSpeech is longer
OVERLAP_S = 2  # that the windows of a CTC model reach over each seam, so that both sides have context
SHORTEST_S = 10
HOP = 160  # samples (10 ms) of which a loudness is taken
QUIET_HOPS = 40  # 0.4 s: a seam is the middle of the quietest stretch of this length


@dataclass(frozen=True)
class Frames:
    """The frames that a CTC model emits.

    Attributes:
        samples: from the beginning of one frame to the next.
        blank: label of the CTC blank.
    """

    samples: int
    blank: int


@dataclass(frozen=True)
class Window:
    """One stretch of a recording that is read at once.

    Attributes:
        start: place of its first sample in the recording.
        signal: samples `(S,)`.
        begin: place of the seam before it; from there it speaks for the recording.
        end: place of the seam after it.
    """

    start: int
    signal: NDArray[Any]
    begin: int
    end: int


@dataclass
class Held:
    """The part of a recording that is in memory.

    Args:
        blocks: the recording's samples in turn.
    """

    blocks: Iterator[NDArray[Any]]
    samples: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.float32))

    def fill(self, size: int) -> bool:
        """Take up blocks until there are `size` samples; whether there are so many."""
        parts, count = [self.samples], len(self.samples)
        while count < size and (block := next(self.blocks, None)) is not None:
            parts.append(block)
            count += len(block)
        self.samples = np.concatenate(parts) if len(parts) > 1 else self.samples
        return count >= size


def windows(
    blocks: Iterable[NDArray[Any]], limit: int, overlap: int = 0, multiple: int = 1
) -> Iterator[Window]:
    """The windows of a recording; all of it is one where it is not longer than the limit.

    Args:
        blocks: samples `(S,)` of the recording in turn.
        limit: samples of a window at most.
        overlap: samples that a window reaches over the seam on each side; below a quarter of the limit.
        multiple: windows and seams begin at multiples of this.
    """
    held, start, begin = Held(iter(blocks)), 0, 0
    overlap = -(-overlap // multiple) * multiple
    while held.fill(limit + 1):
        inside, last = begin - start, limit - overlap
        seam = start + quietest(held.samples, (inside + last) // 2, last) // multiple * multiple
        yield Window(start, held.samples[: seam - start + overlap], begin, seam)
        held.samples = held.samples[seam - overlap - start :].copy()
        start, begin = seam - overlap, seam
    yield Window(start, held.samples, begin, start + len(held.samples))


def quietest(samples: NDArray[Any], low: int, high: int) -> int:
    """Where nobody speaks: the middle of the stretch of least energy between two places.

    Args:
        samples: `(S,)`, in [-1, 1].
        low: first place that may be chosen.
        high: last one.

    >>> signal = np.ones(64_000, np.float32)
    >>> signal[30_000:40_000] = 0
    >>> 30_000 < quietest(signal, 20_000, 60_000) < 40_000
    True
    """
    margin = QUIET_HOPS // 2 * HOP
    around = samples[max(0, low - margin) : high + margin].astype(np.float64)
    hops = len(around) // HOP
    energy = np.square(around[: hops * HOP]).reshape(hops, HOP).sum(1)
    if hops <= QUIET_HOPS:
        return (low + high) // 2
    stretches = np.convolve(energy, np.ones(QUIET_HOPS), "valid")
    middle = max(0, low - margin) + (int(stretches.argmin()) + QUIET_HOPS // 2) * HOP
    return min(max(middle, low), high)


def joined(parts: Iterable[tuple[Window, NDArray[Any]]], frames: Frames) -> NDArray[Any]:
    """The logits of a recording `(T, V)` from those of its windows.

    Two windows are joined at the frame nearest to their seam at which both find a blank, so that no label is cut in
    two; at the seam itself where there is none.

    Args:
        parts: each window, which begins at a multiple of `frames.samples`, with the logits of its frames.
        frames: of the model.
    """
    kept: list[NDArray[Any]] = []
    taken = first = 0
    logits: NDArray[Any] | None = None
    for window, more in parts:
        place = window.start // frames.samples
        if logits is not None:
            until = seam_frame(
                logits[place - first :], more, frames.blank, window.begin // frames.samples - place
            )
            kept.append(logits[taken : place + until - first].copy())
            taken = until
        logits, first = more, place
    assert logits is not None
    return np.concatenate([*kept, logits[taken:]])


def seam_frame(before: NDArray[Any], after: NDArray[Any], blank: int, seam: int) -> int:
    """The frame, counted from the first that two windows share, from which on the later window is taken.

    Args:
        before: logits of the earlier window from there on.
        after: logits of the later window.
        blank: label.
        seam: where the seam lies; nearer to the windows' ends than half of it no frame is chosen.
    """
    low, high = seam // 2, min(seam + seam // 2, len(before), len(after))
    silent = (before[low:high].argmax(-1) == blank) & (after[low:high].argmax(-1) == blank)
    found = np.flatnonzero(silent) + low
    return int(found[np.abs(found - seam).argmin()]) if len(found) else seam


class WindowedRecogniser:
    """A recogniser that reads recordings longer than a limit in windows, others as it always does.

    The logits of a CTC model, whose windows overlap, are joined. Where an attention decoder searches, each piece
    between two seams is searched alone, and the texts are joined.

    Args:
        recogniser: an exported file or folder, or a module; CTC models have `frames`.
        window_s: seconds of a window at most, at least `SHORTEST_S`.
        progress: told how many seconds were read, after each window.

    Raises:
        UserError: the window is too short.
    """

    def __init__(
        self, recogniser: Recogniser, window_s: int, progress: Callable[[float], None] | None = None
    ) -> None:
        check_window(window_s)
        self.recogniser, self.limit = recogniser, window_s * SAMPLE_RATE
        self.progress = progress or (lambda seconds: None)

    def emit(self, signal: NDArray[Any]) -> Emission:
        """Samples `(S,)` -> logits; of a long recording that is searched in pieces, its text and tokens as well.

        Raises:
            UserError: see the recogniser; or a long recording for a file that does not tell its frames.
        """
        if not self.is_long(signal):
            return self.recogniser.emit(signal)
        if (frames := self.frames) is not None:
            return Emission(self.logits([signal], frames))
        found = list(self.searched([signal]))
        tokens = [item.tokens for item in found if item.tokens is not None]
        return Emission(
            np.concatenate([item.logits for item in found]),
            tokens=[token for piece in tokens for token in piece] if tokens else None,
            text=together(item.text for item in found),
        )

    def text_of(self, emission: Emission) -> str:
        """The text of what `emit` gave."""
        return self.recogniser.text_of(emission) if emission.text is None else emission.text

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
        return (
            self.transcribe_blocks([signal]) if self.is_long(signal) else self.recogniser.transcribe(signal)
        )

    def transcribe_blocks(self, blocks: Iterable[NDArray[Any]]) -> str:
        """A recording's samples in turn, of which no more than a window is kept -> text."""
        if (frames := self.frames) is not None:
            return self.recogniser.text_of(Emission(self.logits(blocks, frames)))
        return together(item.text for item in self.searched(blocks))

    @property
    def frames(self) -> Frames | None:
        """Of a CTC model; None where a search needs more than logits."""
        return getattr(self.recogniser, "frames", None)

    def is_long(self, signal: NDArray[Any]) -> bool:
        """Whether a signal is longer than a window."""
        return np.ndim(signal) == 1 and len(signal) > self.limit

    def pieces(self, signal: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """What is searched alone of a signal: all of it, or the pieces between its seams."""
        return (window.signal for window in windows([signal], self.limit))

    def logits(self, blocks: Iterable[NDArray[Any]], frames: Frames) -> NDArray[Any]:
        """The joined logits of a recording `(T, V)`."""
        cut = windows(blocks, self.limit, OVERLAP_S * SAMPLE_RATE, frames.samples)
        return joined(
            ((item, self.told(item, self.recogniser.emit(item.signal)).logits) for item in cut), frames
        )

    def searched(self, blocks: Iterable[NDArray[Any]]) -> Iterator[Emission]:
        """What is found in each piece of a recording: logits, tokens and text."""
        for window in windows(blocks, self.limit):
            emission = self.recogniser.emit(window.signal)
            text = self.recogniser.text_of(emission)
            yield self.told(window, Emission(emission.logits, tokens=emission.tokens, text=text))

    def told(self, window: Window, emission: Emission) -> Emission:
        """The emission, once progress is told."""
        self.progress(window.end / SAMPLE_RATE)
        return emission


def together(texts: Iterable[str | None]) -> str:
    """Texts of pieces as one, a space between two.

    >>> together(["turn it", "", "on"])
    'turn it on'
    """
    return " ".join(text for text in texts if text)


def check_window(window_s: int) -> None:
    """Refuse windows that would be mostly overlap.

    Raises:
        UserError: they would.
    """
    if window_s < SHORTEST_S:
        raise UserError(f"window_s: {window_s}, must be whole seconds of {SHORTEST_S} or more; leave it out")
