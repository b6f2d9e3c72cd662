"""A comparison of runs as Markdown, JSON, CSV and figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qat.report.cells import NOT_APPLICABLE, bits, number, p50, p_text, percentiles, value_at, with_interval
from qat.report.compare import Comparison, Line
from qat.report.points import point_of
from qat.report.tables import markdown_lines, markdown_table
from qat.system.files import write_text

SAME_PLACE = ("engine", "device", "threads", "batch_size")
COLUMNS: list[tuple[str, Callable[[Line], str]]] = [
    ("run", lambda line: line.run),
    ("method", lambda line: line.row.method),
    ("bits", lambda line: bits(line.row)),
    ("WER % [95 % CI]", lambda line: with_interval(line.row, "wer", "wer_ci95", "{:.2f}")),
    ("- first [95 % CI] (p)", lambda line: difference_text(line)),
    ("p50 / p95 ms", lambda line: percentiles(line.row, "latency_ms")),
    ("speedup over its float", lambda line: number(line.row, "speedup", "{:.2f}x")),
    ("size MB", lambda line: number(line.row, "size_mb")),
]
SEARCH: tuple[str, Callable[[Line], str]] = ("search", lambda line: line.row.decoding or NOT_APPLICABLE)


def difference_text(line: Line) -> str:
    """ "+0.31 [-0.02, 0.65] (p = 0.064)"."""
    if line.difference is None:
        return f"n/a ({line.note})"
    low, high = line.difference.ci95
    return f"{line.difference.mean:+.2f} [{low:+.2f}, {high:+.2f}] ({p_text(line.difference.p_value)})"


def markdown(found: Comparison, figures: Sequence[Path] = ()) -> str:
    """The whole comparison as Markdown."""
    runs = [line.run for line in next(iter(found.lines.values()))]
    runs = [found.baseline, *(name for name in runs if name != found.baseline)]
    parts = [
        "# Comparison\n",
        f"Differences are to `{found.baseline}`, over the same utterances (paired bootstrap); p < 0.05 means that one "
        "is hardly chance.\n",
    ]
    searched = any(line.row.decoding for lines in found.lines.values() for line in lines)
    columns = [*COLUMNS, SEARCH] if searched else COLUMNS
    for split, lines in found.lines.items():
        parts.append(f"## {split}\n\n{markdown_table(lines, columns)}")
    if warning := place_warning(found):
        parts.append(f"{warning}\n")
    settings = [
        [f"`{key}`", *(json.dumps(values[run]) if run in values else "not set" for run in runs)]
        for key, values in found.settings.items()
    ]
    parts.append(
        "## Settings that differ\n\n"
        + (markdown_lines(["setting", *runs], settings) if settings else "None.\n")
    )
    if found.changes:
        cells = [
            [
                *(item.run, item.split, item.id, item.reference, item.before, item.after),
                f"{item.errors_before} -> {item.errors_after}",
            ]
            for item in found.changes
        ]
        titles = ["run", "split", "id", "reference", found.baseline, "transcript of the run", "errors"]
        parts.append("## Utterances that changed most\n\n" + markdown_lines(titles, cells))
    if figures:
        parts.append("".join(f"![{path.stem}]({path.name})\n" for path in figures))
    return "\n".join(parts)


def place_warning(found: Comparison) -> str:
    """A sentence where latencies were not taken in one place; "" where they were."""
    rows = [line.row for lines in found.lines.values() for line in lines]
    differ = [key for key in SAME_PLACE if len({value_at(row, key) for row in rows}) > 1]
    if not differ:
        return (
            "Each run was timed in turns with its own float file, not with the other runs: compare speedups."
        )
    values = "; ".join(
        f"{key}: {', '.join(sorted({str(value_at(row, key)) for row in rows}))}" for key in differ
    )
    return f"Latencies were taken in different places and cannot be compared ({values})."


def builtins(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON holds it."""
    return {
        "baseline": found.baseline,
        "settings": found.settings,
        "splits": {
            split: [
                {
                    "run": line.run,
                    "difference": line.difference.to_dict() if line.difference else None,
                    "note": line.note,
                    "row": line.row.to_dict(),
                }
                for line in lines
            ]
            for split, lines in found.lines.items()
        },
        "changes": [vars(item) for item in found.changes],
    }


def table(found: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines of a flat table with numbers, one line per run and split."""
    titles = ["split", "run", "method", "bits", "wer", "wer_low", "wer_high"]
    titles += ["difference", "difference_low", "difference_high", "p_value"]
    titles += ["latency_p50_ms", "latency_p95_ms", "speedup", "size_mb"]
    lines: list[list[Any]] = []
    for split, members in found.lines.items():
        for line in members:
            row, gap = line.row, line.difference
            lines.append(
                [
                    *(split, line.run, row.method, bits(row), row.wer),
                    *(row.wer_ci95 or (None, None)),
                    *((gap.mean, *gap.ci95, gap.p_value) if gap else (None,) * 4),
                    *(p50(row), value_at(row, "latency_ms.p95"), row.speedup, row.size_mb),
                ]
            )
    return titles, lines


def csv_text(found: Comparison) -> str:
    """The flat table as CSV; a null is an empty cell."""
    titles, lines = table(found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([titles, *lines])
    return text.getvalue()


def write_comparison(found: Comparison, folder: Path) -> dict[str, str]:
    """Write `comparison.{md,json,csv}` and figures into `folder`; format -> text."""
    figures = draw(found, folder)
    texts = {
        "md": markdown(found, figures),
        "json": json.dumps(builtins(found), indent=1, ensure_ascii=False) + "\n",
        "csv": csv_text(found),
    }
    for suffix, text in texts.items():
        write_text(folder / f"comparison.{suffix}", text)
    return texts


def draw(found: Comparison, folder: Path) -> list[Path]:
    """WER of all runs and splits; WER of the first split against size and latency."""
    from qat.report.figures import draw_tradeoff, draw_wer  # here, as Matplotlib takes half a second

    named = [replace(line.row, method=line.run) for lines in found.lines.values() for line in lines]
    drawn = [draw_wer(folder / "wer.png", named)]
    first, lines = next(iter(found.lines.items()))
    points = {
        line.run: [point_of(line.row, line.row.wer, None)]
        for line in lines
        if line.row.wer  # the axis is logarithmic
    }
    for key in ("size_mb", "latency_ms"):
        if any(getattr(point, key) is not None for line in points.values() for point in line):
            drawn.append(draw_tradeoff(folder / f"wer_{key.partition('_')[0]}.png", points, key, first))
    return [path for path in drawn if path is not None]
