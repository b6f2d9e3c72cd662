"""Log probabilities and the best of them, the same on every run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[Any]:
    """Log probabilities of logits / temperature along the last axis; a new array of the same dtype.

    >>> np.exp(log_softmax(np.log(np.array([[1.0, 3.0]])))).round(3).tolist()
    [[0.25, 0.75]]
    """
    scores = logits - logits.max(axis=-1, keepdims=True)
    if temperature != 1.0:
        scores /= temperature
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def best_first(scores: NDArray[Any], count: int) -> NDArray[Any]:
    """Indices of the `count` largest of `scores` `(n,)`, best first; of equal ones the lowest index.

    >>> best_first(np.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist()
    [1, 3, 2]
    """
    if count >= scores.size:
        return np.argsort(-scores, kind="stable")
    worst = np.partition(scores, scores.size - count)[scores.size - count]
    better = np.flatnonzero(scores > worst)
    equal = np.flatnonzero(scores == worst)[: count - better.size]  # may be many: do not sort them
    return np.concatenate([better[np.argsort(-scores[better], kind="stable")], equal])
