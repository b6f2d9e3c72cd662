import io
from pathlib import Path

import pytest

from qat.report.row import Row
from qat.report.tables import HOW_TO_READ, bits, print_table, report_markdown, write_report_markdown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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


def test_null_is_shown_with_its_reason(row: Row, float_row: Row) -> None:
    text = report_markdown([float_row, row | {"peak_memory_mb": None, "notes": ["peak_memory_mb: no /proc"]}])
    assert "| n/a (no /proc) |" in text and "| n/a (this row is the float model) |" in text
    assert "None" not in text and "nan" not in text


def test_every_line_of_a_table_has_the_same_cells(row: Row) -> None:
    lines = report_markdown([row | {"method": "a|b"}]).splitlines()
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    widths = [line.count("|") for line in tables]
    assert len(tables) == 4 * 3
    assert [widths[i : i + 3] for i in range(0, 12, 3)] == [[width] * 3 for width in widths[::3]]


def test_bits_name_what_stays_float(row: Row) -> None:
    assert bits(row | {"weight_bits": "4/8"}) == "W4/8 A8"
    assert bits(row | {"activation_bits": None}) == "W8 Afloat"
    assert bits(row | {"activation_bits": None, "weight_bits": None}) == "float"


def test_plain_output_is_aligned_text_with_reasons(row: Row, float_row: Row) -> None:
    stream = io.StringIO()
    notes = ["latency_ms: no timer"]
    print_table([float_row, row | {"latency_ms": None, "notes": notes}], "title", stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "title" and "\x1b" not in stream.getvalue()
    assert lines[1].index("WER %") == lines[3].index("12.50 [")
    assert lines[-1] == "n/a (deterministic, latency_ms): no timer"


@pytest.mark.parametrize("columns", ["80", "160"])
def test_terminal_output_fits_the_terminal(row: Row, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    print_table([row], "title", stream)
    assert max(len(line) for line in stream.getvalue().splitlines()) <= int(columns)
    assert "12.50" in stream.getvalue() and "2.00x" in stream.getvalue()


def test_models_are_named_when_they_differ(row: Row) -> None:
    one, two = io.StringIO(), io.StringIO()
    print_table([row], stream=one)
    print_table([row, row | {"model": "Wav2Vec2"}], stream=two)
    assert "CRDNN" not in one.getvalue() and "Wav2Vec2" in two.getvalue()


def test_file_holds_the_report(tmp_path: Path, row: Row) -> None:
    write_report_markdown(tmp_path / "report.md", [row], "x")
    assert (tmp_path / "report.md").read_text() == report_markdown([row], "x")
