"""Markdown tables of a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qat.evaluation.measurement import BeamPoint
from qat.report.cells import VARIANT
from qat.report.row import Row
from qat.report.tables import HOW_TO_READ, SPEED, file_table, report_markdown, write_report_markdown


def test_report_shows_what_the_rows_say(row: Row, float_row: Row) -> None:
    text = report_markdown([float_row, row], "demo")
    assert text.startswith("# demo\n") and HOW_TO_READ in text
    for shown in (
        "| W8 A8 |",
        "12.50 [0.00, 21.05]",
        "1 / 1 / 0",
        "+6.25 [+0.00, +12.50]",
        "12.0 / 15.5",
        "24.0 / 26.0",
        "2.00x",
        "98.0 %",
        "0.1 %",
        "14.29 (S 1, D 0, I 0; n 1)",
        "python train.py --qat deterministic",
        "`head` (deterministic)",
    ):
        assert shown in text, shown


def test_the_recipe_of_a_search_is_shown_with_its_reasons(row: Row) -> None:
    text = report_markdown([row], searched="# found by hand\npreset: searched\n")
    assert "```yaml\n# found by hand\npreset: searched\n```" in text and "(search/pareto.png)" in text
    assert "search" not in report_markdown([row]).lower()


def test_null_is_shown_with_its_reason(row: Row, float_row: Row) -> None:
    bare = replace(row, peak_memory_mb=None, notes=["peak_memory_mb: no /proc"])
    text = report_markdown([float_row, bare])
    assert "| n/a (no /proc) |" in text and "None" not in text and "nan" not in text


def test_what_does_not_apply_is_a_dash_and_no_note(row: Row, float_row: Row) -> None:
    text = report_markdown([float_row, row])
    assert "n/a (this row" not in text and "## Notes" not in text
    line = next(line for line in text.splitlines() if line.startswith("| test_seen | CRDNN | float |"))
    assert line.endswith("| - | - |")
    assert "- size_mb: no file" in report_markdown([replace(row, notes=["size_mb: no file"])])


def test_every_line_of_a_table_has_the_same_cells(row: Row) -> None:
    lines = report_markdown([replace(row, method="a|b")]).splitlines()
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    widths = [line.count("|") for line in tables]
    assert len(tables) == 5 * 3
    assert [widths[i : i + 3] for i in range(0, 15, 3)] == [[width] * 3 for width in widths[::3]]


def test_speed_is_shown_once_per_file(row: Row, float_row: Row) -> None:
    rows = [replace(item, split=split) for split in ("a", "b", "c") for item in (float_row, row)]
    text = report_markdown(rows)
    assert (
        text.count("12.0 / 15.5") == 1 and text.count("24.0 / 26.0") == 2
    )  # float: in its own line and beside
    assert len(file_table(rows, SPEED).splitlines()) == 2 + 2
    other = replace(row, split="c", speedup=3.0)
    assert len(file_table([*rows, other], SPEED).splitlines()) == 2 + 3, "another measurement is another line"


def test_a_report_without_integer_files_has_no_table_of_agreement(row: Row, float_row: Row) -> None:
    assert "## Agreement" in report_markdown([float_row, row]) and "## Agreement" not in report_markdown(
        [float_row]
    )


def test_file_holds_the_report(tmp_path: Path, row: Row) -> None:
    write_report_markdown(tmp_path / "report.md", [row], "x")
    assert (tmp_path / "report.md").read_text() == report_markdown([row], "x")


def test_searches_parts_and_tokens_are_shown_where_rows_have_them(row: Row, float_row: Row) -> None:
    parts = {"encoder": 3.0, "decoder_step": 5.25, "search": 2.0}
    assert row.parity is not None
    searched = replace(
        row,
        decoding="attention, beam 8, lm 0.5",
        parts_ms=parts,
        parity=replace(row.parity, differing_utterances=0.005),
    )
    text = report_markdown([float_row, searched])
    assert "| split | model | method | bits | file | search |" in text
    assert "| encoder p50 ms | decoder step p50 ms | rest of the search p50 ms |" in text
    assert "| 3.0 | 5.2 | 2.0 |" in text and "| utterances that differ |" in text and "| 0.5 % |" in text
    plain = report_markdown([float_row, row])
    assert not any(
        word in plain for word in ("| search |", "## Parts of", "utterances that differ", "by beam")
    )


def test_beams_have_a_table(row: Row) -> None:
    text = report_markdown([row], beams=[BeamPoint(1, 30, 12.5, 8.0), BeamPoint(8, 30, None, 31.25)])
    assert "## Error rate and latency by beam" in text
    assert "| 1 | 12.50 | 8.0 | 30 |" in text and "| 8 | n/a | 31.2 | 30 |" in text


def test_variants_are_not_listed_where_file_and_module_are_compared(row: Row) -> None:
    variant = replace(row, method="x, no language model", parity=None, notes=[f"parity: {VARIANT}"])
    text = report_markdown([variant, row])
    agreement = text.partition("## Agreement")[2].partition("## ")[0]
    assert "no language model" not in agreement and VARIANT not in text and "no language model" in text
