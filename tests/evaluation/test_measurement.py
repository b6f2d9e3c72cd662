"""Measurements are frozen values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tests.evaluation.measurements import float_measurement, integer_measurement


def test_precision_says_whether_a_model_is_integer() -> None:
    assert integer_measurement().is_integer and not float_measurement().is_integer


def test_a_measurement_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        integer_measurement().size_mb = 1.0  # type: ignore[misc]
