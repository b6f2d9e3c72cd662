"""One step of a decoder or a language model, of many hypotheses at once; torch or a graph may compute it."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from qat.decoding.encoded import Encoded

Memory = tuple[NDArray[Any], ...]  # the first axis of each array is the hypothesis


class DecoderStep(Protocol):
    """An attention decoder; the encoder states of the utterance are not repeated over the hypotheses."""

    def start(self, encoded: Encoded) -> Memory:
        """The memory of one hypothesis (N = 1) of a new utterance, before its first token."""

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], NDArray[Any], Memory]:
        """Last tokens `(N,)` int64 -> logits `(N, V)` float32 of the next, attention `(N, T)` float32, memory."""

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """The memory of the hypotheses `rows` `(M,)` int64; a row may be taken more than once."""


class LanguageModelStep(Protocol):
    """A language model over the decoder's tokens."""

    def start(self) -> Memory:
        """The memory of one hypothesis (N = 1) before its first token."""

    def step(self, tokens: NDArray[Any], memory: Memory) -> tuple[NDArray[Any], Memory]:
        """Last tokens `(N,)` int64 -> logits `(N, V)` float32 of the next, memory."""

    def select(self, memory: Memory, rows: NDArray[Any]) -> Memory:
        """The memory of the hypotheses `rows` `(M,)` int64; a row may be taken more than once."""


def take_rows(memory: Memory, rows: NDArray[Any]) -> Memory:
    """The usual `select`: each array's `rows` along its first axis, copied.

    >>> import numpy as np
    >>> [item.tolist() for item in take_rows((np.arange(3), np.eye(3)), np.array([2, 2]))]
    [[2, 2], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]
    """
    return tuple(item.take(rows, axis=0) for item in memory)
