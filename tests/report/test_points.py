"""Points of pictures."""

from __future__ import annotations

from dataclasses import replace

from qat.report.points import bits_value, point_of
from qat.report.row import Row


def test_a_point_is_what_its_row_says(row: Row) -> None:
    point = point_of(row, 12.5, row.wer_ci95)
    assert (point.label, point.weight_bits, point.activation_bits) == ("W8 A8", 8, 8)
    assert (point.wer, point.interval, point.size_mb, point.latency_ms) == (12.5, (0.0, 21.05), 1.4, 12.0)
    bare = point_of(replace(row, latency_ms=None), 9.0, None)
    assert bare.interval == (9.0, 9.0) and bare.latency_ms is None


def test_bits_have_an_order() -> None:
    assert sorted([8, "4/8", 2, None, 4], key=bits_value) == [2, 4, "4/8", 8, None]


def test_a_mean_near_a_whole_number_stands_with_it(row: Row) -> None:
    assert row.coverage is not None
    for width, mean, expected in (("2/8", 2.04, 2), ("4/8", 5.5, "4/8"), ("4/8", None, "4/8"), (8, 8.0, 8)):
        mixed = replace(row, weight_bits=width, coverage=replace(row.coverage, mean_weight_bits=mean))
        assert point_of(mixed, 9.0, None).weight_bits == expected
        mixed = replace(row, activation_bits=width, coverage=replace(row.coverage, mean_activation_bits=mean))
        assert point_of(mixed, 9.0, None).activation_bits == expected
