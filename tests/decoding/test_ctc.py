"""Greedy CTC on numpy labels."""

from __future__ import annotations

import numpy as np
import pytest

from qat.decoding.ctc import GreedyCTC

SYMBOLS = ["", " ", "a", "b"]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([], ""),
        ([0, 0, 0], ""),
        ([2, 2, 2], "a"),
        ([2, 0, 2], "aa"),
        ([1, 2, 1, 0, 1, 3, 1], "a b"),
    ],
)
def test_repeats_merge_blanks_drop_and_spaces_do_not_pile_up(labels: list[int], text: str) -> None:
    assert GreedyCTC(SYMBOLS).text_of(np.array(labels, dtype=np.int64)) == text


def test_the_best_label_of_each_frame_is_taken() -> None:
    logits = np.array([[0.1, 0.0, 0.9, 0.2], [0.8, 0.0, 0.1, 0.3], [0.0, -1.0, 0.5, 0.6]], np.float32)
    assert GreedyCTC(SYMBOLS).decode(logits) == "ab"


def test_a_blank_with_a_symbol_is_dropped_all_the_same() -> None:
    assert GreedyCTC(["a", "<blank>", "b"], blank=1).text_of(np.array([0, 1, 0, 2])) == "aab"
