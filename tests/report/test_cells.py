"""Cells of tables: numbers, dashes, reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qat.report.cells import (
    applies,
    bits,
    number,
    p_cell,
    p_number,
    p_text,
    percentiles,
    short,
    short_difference,
    value_at,
    with_interval,
)
from qat.report.row import Row


def test_bits_name_what_stays_float(row: Row) -> None:
    assert bits(replace(row, weight_bits="4/8")) == "W4/8 A8"
    assert row.coverage is not None
    mixed = replace(row, weight_bits="2/4", coverage=replace(row.coverage, mean_weight_bits=2.037))
    assert bits(mixed) == "W2/4 (mean 2.04) A8"
    assert bits(replace(mixed, weight_bits=2)) == "W2 A8"
    both = replace(mixed, activation_bits="4/8", coverage=replace(row.coverage, mean_activation_bits=4.06))
    assert bits(both) == "W2/4 A4/8 (mean 4.06)"
    assert bits(replace(row, activation_bits=None)) == "W8 Afloat"
    assert bits(replace(row, activation_bits=None, weight_bits=None)) == "float"


@pytest.mark.parametrize(
    ("p", "column", "text"),
    [
        (1.0, "1.000", "p = 1.000"),
        (0.0412, "0.041", "p = 0.041"),
        (0.001, "0.001", "p = 0.001"),
        (0.00099, "< 0.001", "p < 0.001"),
        (0.0002, "< 0.001", "p < 0.001"),
    ],
)
def test_a_small_p_is_not_shown_as_zero(p: float, column: str, text: str) -> None:
    assert (p_number(p), p_text(p)) == (column, text)


def test_what_was_not_measured_has_its_reason_and_what_does_not_apply_a_dash(
    row: Row, float_row: Row
) -> None:
    bare = replace(
        row, speedup=None, latency_ms=None, notes=["speedup: no float file", "latency_ms: no timer"]
    )
    assert number(bare, "speedup") == "n/a (no float file)" and number(float_row, "speedup") == "-"
    assert percentiles(bare, "latency_ms") == "n/a (no timer)" == number(bare, "latency_ms.p50")
    assert percentiles(float_row, "float_latency_ms") == "-" and p_cell(float_row) == "-"
    narrow = short("speedup", lambda row: number(row, "speedup", "{:.2f}x"))
    assert (narrow(row), narrow(bare), narrow(float_row)) == ("2.00x", "n/a", "-")
    assert applies(float_row, "wer") and not applies(float_row, "parity.wer_fake") and applies(row, "parity")


def test_an_interval_that_is_missing_says_why_in_its_brackets(row: Row) -> None:
    one = replace(row, wer_ci95=None, notes=["wer_ci95: one utterance"])
    assert with_interval(one, "wer", "wer_ci95", "{:.2f}") == "12.50 [n/a (one utterance)]"
    assert with_interval(row, "wer", "wer_ci95", "{:.2f}") == "12.50 [0.00, 21.05]"


def test_the_difference_stands_with_its_p(row: Row) -> None:
    assert short_difference(row) == "+6.25 (p = 0.250)" and p_cell(row) == "0.250"
    assert row.delta_wer_vs_float is not None
    sure = replace(row, delta_wer_vs_float=replace(row.delta_wer_vs_float, p_value=0.0002))
    assert short_difference(sure) == "+6.25 (p < 0.001)" and p_cell(sure) == "< 0.001"


def test_a_path_into_null_is_null(float_row: Row) -> None:
    assert value_at(float_row, "parity.wer_fake") is None and value_at(float_row, "latency_ms.p50") == 24.0
