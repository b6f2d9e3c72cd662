"""How a report is measured."""

from __future__ import annotations

from dataclasses import fields

from qat.evaluation.options import EvaluationOptions


def test_every_option_is_documented_and_latency_has_enough_runs() -> None:
    described = EvaluationOptions.__doc__ or ""
    assert all(f"{field.name}: " in described for field in fields(EvaluationOptions))
    assert EvaluationOptions().repeats >= 20
