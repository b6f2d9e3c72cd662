"""One model on several engines: batches are padded, and all sides take turns."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

from benchmarks import engines
from benchmarks.engines import SIDES, measure, utterances


def test_a_batch_is_padded_with_zeros() -> None:
    signal, lengths = utterances(0.1, 3)
    assert lengths.tolist() == [1600, 1360, 1120] and signal.shape == (3, 1600)
    assert np.all(signal[2, 1120:] == 0) and np.all(signal[2, :1120] != 0)
    assert utterances(0.1, 1)[1].tolist() == [1600]


def test_every_side_is_timed_in_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    of_attention = SIDES[-1]
    assert of_attention.attention_bits, "a CRDNN has no such side"
    sides = (SIDES[0], SIDES[-2])
    monkeypatch.setattr(engines, "SIDES", (*sides, of_attention))
    options: Any = argparse.Namespace(settings=["1x1", "1x2"], seconds=0.5, repeats=3)
    rows = list(measure("mini_crdnn", options))
    assert [(row["batch"], row["file"]) for row in rows] == [(n, side.name) for n in (1, 2) for side in sides]
    assert all(row["ms"] > 0 for row in rows) and rows[0]["ratio"] == rows[2]["ratio"] == 1.0
