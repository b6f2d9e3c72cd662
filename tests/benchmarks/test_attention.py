"""Rows of the attention benchmark and their table."""

from __future__ import annotations

from argparse import Namespace

from benchmarks.attention import PARTS, SIDES, row_of
from benchmarks.publish import attention_rows

OPTIONS = Namespace(seconds=10.0, steps=4)


def runs() -> dict[str, list[dict[str, float]]]:
    """Three runs of each side; SpeechBrain takes four times as long as the float graphs, the integer ones half."""
    scale = {"speechbrain": 4.0, "float": 1.0, "integer": 0.5}
    return {side: [dict.fromkeys(PARTS, scale[side] * turn) for turn in (1.0, 2.0, 3.0)] for side in SIDES}


def test_a_row_has_medians_of_each_part_and_ratios_of_each_turn() -> None:
    row = row_of("integer", 80, runs(), OPTIONS)
    assert (row["total_ms"], row["encoder_ms"], row["decoder_step_ms"]) == (4000.0, 1000.0, 250.0)
    assert (row["speechbrain_over_this"], row["float_over_this"]) == (8.0, 2.0)
    assert row["runs_ms"] == [2000.0, 4000.0, 6000.0]


def test_the_table_has_a_line_for_each_side() -> None:
    rows = [{**row_of(side, 80, runs(), OPTIONS), "peak_memory_mb": 9.0, "size_mb": None} for side in SIDES]
    lines = list(attention_rows(rows))
    assert [line["model"] for line in lines] == list(SIDES)
    assert lines[1]["total s"] == "8.0" and lines[1]["SpeechBrain's / this"] == "4.00x"
