"""What turns audio into text, as evaluation sees it: any model that emits scores, with any search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from qat.decoding.encoded import Encoded


@dataclass(eq=False)
class Emission:
    """What a model computes of one utterance before anything is searched.

    Attributes:
        logits: of the CTC head `(T, V)`, valid frames only.
        encoded: what an attention decoder reads; None for a model without one.
        tokens: what the search found, once `text_of` has searched; None for a search that goes by frames alone.
        text: of a long recording that was searched piece by piece; None where `text_of` is still to search.
    """

    logits: NDArray[Any]
    encoded: Encoded | None = None
    tokens: list[int] | None = None
    text: str | None = None


class Decoder(Protocol):
    """Turns frames' scores into text."""

    def decode(self, logits: NDArray[Any]) -> str:
        """Logits `(T, V)` of the valid frames of one utterance -> text."""


class Recogniser(Protocol):
    """A model with its search: an exported file or folder, or a module."""

    def emit(self, signal: NDArray[Any]) -> Emission:
        """Samples `(S,)` at 16 kHz in [-1, 1] -> what the search reads."""

    def text_of(self, emission: Emission) -> str:
        """The text of what `emit` gave; a search over tokens leaves them in `emission.tokens`."""

    def transcribe(self, signal: NDArray[Any]) -> str:
        """Samples `(S,)` -> text."""
