"""Measurements are frozen values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from qat.evaluation.measurement import own_last
from tests.evaluation.measurements import float_measurement, integer_measurement


def test_precision_says_whether_a_model_is_integer() -> None:
    assert integer_measurement().is_integer and not float_measurement().is_integer


def test_a_measurement_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        integer_measurement().size_mb = 1.0  # type: ignore[misc]


def test_the_runs_own_model_comes_last_and_variants_before_it() -> None:
    own, reference = integer_measurement(), float_measurement()
    variant = integer_measurement(name="model_no_lm", is_variant=True)
    assert own_last([reference, variant, own]) == [reference, variant, own]
    lone = float_measurement(name="float_no_lm", is_variant=True)
    assert own_last([reference, lone]) == [lone, reference]
