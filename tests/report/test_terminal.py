"""Tables in the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from qat.report.row import Row
from qat.report.terminal import print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_output_is_aligned_text_with_reasons(row: Row, float_row: Row) -> None:
    stream = io.StringIO()
    notes = ["latency_ms: no timer"]
    print_table([float_row, replace(row, latency_ms=None, notes=notes)], "title", stream)
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
    print_table([row, replace(row, model="Wav2Vec2")], stream=two)
    assert "CRDNN" not in one.getvalue() and "Wav2Vec2" in two.getvalue()
