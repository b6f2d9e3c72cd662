"""How a report is measured."""

from __future__ import annotations

from dataclasses import fields

import pytest

from qat.evaluation.options import EvaluationOptions
from qat.system.errors import UserError


def test_every_option_is_documented_and_latency_has_enough_runs() -> None:
    described = EvaluationOptions.__doc__ or ""
    assert all(f"{field.name}: " in described for field in fields(EvaluationOptions))
    assert EvaluationOptions().repeats >= 20


def test_windows_that_would_be_mostly_overlap_are_refused() -> None:
    with pytest.raises(UserError, match="window_s: 5, must be whole seconds of 10 or more"):
        EvaluationOptions(window_s=5)
