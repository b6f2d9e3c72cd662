"""Greedy CTC decoding (Graves 2006) of numpy arrays: needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class GreedyCTC:
    """The best label of each frame, repeats merged, blanks dropped.

    Args:
        symbols: text of each label.
        blank: label of the CTC blank, whatever its symbol.
    """

    symbols: Sequence[str]
    blank: int = 0

    def decode(self, logits: NDArray[Any]) -> str:
        """Logits `(T, V)` -> text."""
        return self.text_of(logits.argmax(-1))

    def text_of(self, labels: NDArray[Any]) -> str:
        """Best label of each frame `(T,)` -> text, its words one space apart.

        >>> import numpy as np
        >>> GreedyCTC(["", " ", "a", "b"]).text_of(np.array([1, 2, 2, 0, 2, 1, 0, 1, 3]))
        'aa b'
        """
        merged = [int(label) for label, _ in groupby(labels.tolist())]
        return " ".join("".join(self.symbols[label] for label in merged if label != self.blank).split())
