"""Stored rows, seeds of a row pooled."""

from __future__ import annotations

import numpy as np
import pytest

from qat.evaluation.significance import paired_difference
from qat.suite.spec import Suite
from qat.suite.store import Results
from qat.suite.view import View
from tests.suite.conftest import FLOAT, WORDS, WORSE


def test_seeds_are_pooled_over_the_same_utterances(suite: Suite, results: Results) -> None:
    cell = View(suite, results).cell("mine/qat", "test_seen")
    assert cell is not None and cell.difference is not None
    pooled = np.add(FLOAT, WORSE)
    expected = paired_difference(pooled, 2 * np.asarray(FLOAT), 2 * np.asarray(WORDS), seed=0)
    assert cell.difference == expected
    assert cell.wer == pytest.approx(3.5) and cell.spread == pytest.approx(np.std([1.0, 6.0], ddof=1))
    assert cell.seeds == 2


def test_a_missing_row_says_why(suite: Suite, results: Results) -> None:
    view = View(suite, results)
    assert view.first("mine/later") is None and view.cell("mine/later", "test_seen") is None
    assert (
        view.failure("mine/later") == "not run yet" and view.failure("mine/broken") == "failed: no such file"
    )


def test_the_float_row_has_no_difference(suite: Suite, results: Results) -> None:
    cell = View(suite, results).cell("mine/float", "test_seen")
    assert cell is not None and cell.difference is None and cell.spread is None
    assert cell.wer == 1.0


def test_without_the_float_row_there_is_no_difference(suite: Suite, results: Results) -> None:
    del results.errors["mine/float"]
    cell = View(suite, results).cell("mine/w8a8", "test_seen")
    assert cell is not None and cell.difference is None and cell.wer == 1.0


def test_a_model_is_measured_once_one_of_its_rows_is(suite: Suite, results: Results) -> None:
    view = View(suite, results)
    assert view.is_measured("mine") and not view.is_measured("min")
