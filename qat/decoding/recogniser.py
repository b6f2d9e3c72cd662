"""What turns audio into text, as evaluation sees it: any model that emits scores, with any decoder."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class Decoder(Protocol):
    """Turns what a model emits into text."""

    def decode(self, logits: NDArray[Any]) -> str:
        """Logits `(T, V)` of the valid frames of one utterance -> text."""


class Recogniser(Protocol):
    """An exported file with its decoder."""

    def logits(self, signal: NDArray[Any]) -> NDArray[Any]:
        """Samples `(S,)` at 16 kHz in [-1, 1] -> logits `(T, V)` of the valid frames."""

    def decode(self, logits: NDArray[Any]) -> str:
        """Logits `(T, V)` -> text."""

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
