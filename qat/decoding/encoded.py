"""What an encoder says of one utterance, as searches take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Encoded:
    """One utterance, without padding; every hypothesis of a search shares it.

    Args:
        states: of the encoder `(T, D)`.
        keys: states as the attention compares them `(T, A)`.
        values: states as the attention's context sums them `(T, A)`.
        logits: of the CTC head `(T, V)`; None where the model has none.
    """

    states: NDArray[Any]
    keys: NDArray[Any]
    values: NDArray[Any]
    logits: NDArray[Any] | None = None

    @property
    def frames(self) -> int:
        """Number of frames T.

        >>> import numpy as np
        >>> Encoded(np.zeros((3, 4)), np.zeros((3, 2)), np.zeros((3, 2))).frames
        3
        """
        return int(self.states.shape[0])
