"""Memories of hypotheses: rows of arrays."""

from __future__ import annotations

import numpy as np

from qat.decoding.steps import take_rows


def test_rows_are_copied_and_may_repeat() -> None:
    states = np.arange(12.0).reshape(3, 2, 2)
    (taken,) = take_rows((states,), np.array([2, 0, 2]))
    assert np.array_equal(taken, states[[2, 0, 2]])
    taken[:] = 0
    assert states[2, 0, 0] == 8.0
