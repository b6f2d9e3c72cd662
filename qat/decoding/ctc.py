"""Greedy CTC decoding (Graves 2006) of numpy arrays: needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy.typing import NDArray


def merged(labels: Iterable[int], blank: int) -> list[int]:
    """Best label of each frame -> repeats merged, blanks dropped.

    >>> merged([1, 1, 0, 1, 2], 0)
    [1, 1, 2]
    """
    return [label for label, _ in groupby(labels) if label != blank]


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
        text = "".join(self.symbols[label] for label in merged(labels.tolist(), self.blank))
        return " ".join(text.split())
