"""Rows -> a table in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from qat.report.cells import applies, value_at
from qat.report.row import Row, reason_for_null
from qat.report.tables import FILE, TERMINAL

SHORT_FIELDS = (
    "wer",
    "delta_wer_vs_float",
    "latency_ms",
    "speedup",
    "size_mb",
)  # the table is followed by why they are null
NARROW = 110  # characters; a narrower terminal gets intervals and p values on a second line


def print_table(rows: Sequence[Row], title: str = "", stream: TextIO | None = None) -> None:
    """Print the rows: a drawn table on a terminal, aligned plain text elsewhere; then searches, and reasons for n/a."""
    stream = stream or sys.stdout
    several = len({row.model for row in rows}) > 1
    columns = FILE[:1] + TERMINAL if several else TERMINAL
    names = [name for name, _ in columns]
    cells = [[cell(row) for _, cell in columns] for row in rows]
    if stream.isatty():
        draw_table(names, cells, title, stream)
    else:
        widths = [max(len(line[column]) for line in [names, *cells]) for column in range(len(names))]
        lines = [
            " ".join(cell.ljust(width + 1) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [names, *cells]
        ]
        print("\n".join([title, *lines] if title else lines), file=stream)
    unmeasured = [
        f"n/a ({row.method}, {key}): {reason_for_null(row.notes, key)}"
        for row in rows
        for key in SHORT_FIELDS
        if value_at(row, key) is None and applies(row, key)
    ]
    searches = [f"search ({row.method}): {row.decoding}" for row in rows if row.decoding]
    for line in dict.fromkeys([*searches, *unmeasured]):
        print(line, file=stream)


def draw_table(names: Sequence[str], cells: Sequence[Sequence[str]], title: str, stream: TextIO) -> None:
    """Draw with lines and colours; on a narrow terminal, intervals and p values go on a second line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, markup=False, highlight=False)
    table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    narrow = console.width < NARROW
    for name in names:
        table.add_column(two_lines(name) if narrow else name, overflow="fold")
    for line in cells:
        table.add_row(*(two_lines(cell) if narrow else cell for cell in line))
    console.print(table)


def two_lines(cell: str) -> str:
    """The cell with its interval or p value on a line of its own."""
    return cell.replace(" [", "\n[").replace(" (", "\n(").replace(", ", ",")
