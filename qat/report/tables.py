"""Rows -> `report.md` and a terminal table. Reads nothing but the rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from qat.evaluation.error_rates import DURATION_BUCKETS
from qat.report.row import OF_INTEGER_ROWS, Row, reason_for_null
from qat.system.files import write_text

HOW_TO_READ = (
    "How to read: WER is corpus level, in percent, with its 95 % bootstrap interval over utterances; the "
    "difference to float is paired (same utterances, same draws), and p < 0.05 means that it is hardly "
    "chance. WER and latency of a row belong to the same exported file; float and integer files were timed "
    "taking turns on the same device, engine and threads. S, D, I: substitutions, deletions, insertions. "
    "n/a (reason): not measured."
)
Column = tuple[str, Callable[[Row], str]]


def number(row: Row, path: str, form: str = "{:.2f}") -> str:
    """A field as text, or "n/a (reason)" when it is null.

    >>> number({"wer": None, "notes": ["wer: no reference words"]}, "wer")
    'n/a (no reference words)'
    """
    value: Any = row
    for name in path.split("."):
        value = value[name]
        if value is None:
            return f"n/a ({reason_for_null(row, path) or 'no reason given'})"
    return form.format(*value) if isinstance(value, list) else form.format(value)


def with_interval(row: Row, point: str, interval: str, form: str) -> str:
    """ "3.42 [3.10, 3.75]"; the interval's reason stands inside the brackets when only it is null."""
    value = number(row, point, form)
    low_high = number(row, interval, f"[{form}, {form}]")
    if value.startswith("n/a"):
        return value
    return f"{value} {low_high}" if low_high.startswith("[") else f"{value} [{low_high}]"


def bits(row: Row) -> str:
    """ "W4A8"; float weights or activations say so."""
    weight, activation = row["weight_bits"], row["activation_bits"]
    if weight is None and activation is None:
        return "float"
    return f"W{weight or 'float'} A{activation or 'float'}"


def percentiles(row: Row, path: str) -> str:
    """ "12.1 / 14.0" milliseconds."""
    if row[path] is None:
        return number(row, path)
    return f"{number(row, f'{path}.p50', '{:.1f}')} / {number(row, f'{path}.p95', '{:.1f}')}"


def share(row: Row, path: str) -> str:
    """A share in [0, 1] as percent."""
    return number(row, path, "{:.1%}").replace("%", " %")


def errors(row: Row) -> str:
    """Substitutions, deletions and insertions."""
    kinds = ("substitutions", "deletions", "insertions")
    missing = [key for key in kinds if row[key] is None]
    return number(row, missing[0]) if missing else " / ".join(str(row[key]) for key in kinds)


NAMES: list[Column] = [
    ("split", lambda row: row["split"]),
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("bits", bits),
    ("file", lambda row: row["precision"]),
]
WER: list[Column] = [
    ("utterances", lambda row: number(row, "utterances", "{}")),
    ("WER % [95 % CI]", lambda row: with_interval(row, "wer", "wer_ci95", "{:.2f}")),
    ("S / D / I", errors),
    ("CER %", lambda row: number(row, "cer")),
    (
        "WER - float [95 % CI]",
        lambda row: with_interval(row, "delta_wer_vs_float.mean", "delta_wer_vs_float.ci95", "{:+.2f}"),
    ),
    ("p", lambda row: number(row, "delta_wer_vs_float.p_value", "{:.4f}")),
]
SPEED: list[Column] = [
    ("p50 / p95 ms", lambda row: percentiles(row, "latency_ms")),
    ("float p50 / p95 ms", lambda row: percentiles(row, "float_latency_ms")),
    ("speedup", lambda row: number(row, "speedup", "{:.2f}x")),
    ("real-time factor", lambda row: number(row, "rtf", "{:.4f}")),
    ("size MB", lambda row: number(row, "size_mb")),
    ("float MB", lambda row: number(row, "float_size_mb")),
    ("peak memory MB", lambda row: number(row, "peak_memory_mb", "{:.0f}")),
]
QUANTIZED: list[Column] = [
    ("weights", lambda row: share(row, "coverage.weights")),
    ("multiply-adds", lambda row: share(row, "coverage.macs")),
    ("integer nodes", lambda row: number(row, "integer_nodes", "{}")),
    ("float compute nodes", lambda row: number(row, "float_compute_nodes", "{}")),
    ("max logit gap", lambda row: number(row, "parity.max_abs_logit", "{:.3g}")),
    ("frames that differ", lambda row: share(row, "parity.argmax_disagreement")),
    ("WER fake-quant %", lambda row: number(row, "parity.wer_fake")),
    ("WER integer %", lambda row: number(row, "parity.wer_integer")),
]
SHORT_FIELDS = ("wer", "delta_wer_vs_float", "latency_ms", "speedup", "size_mb")  # their nulls are told below


def short(field: str, cell: Callable[[Row], str]) -> Callable[[Row], str]:
    """The cell of a narrow table: "n/a" alone where the field is null."""
    return lambda row: "n/a" if row[field] is None else cell(row)


def short_difference(row: Row) -> str:
    """ "+0.31 (p 0.041)"."""
    mean = number(row, "delta_wer_vs_float.mean", "{:+.2f}")
    return f"{mean} (p {number(row, 'delta_wer_vs_float.p_value', '{:.3f}')})"


TERMINAL: list[Column] = [
    *(column for column in NAMES if column[0] in ("split", "method", "bits")),
    ("WER % [95 % CI]", short("wer", WER[1][1])),
    ("- float (p)", short("delta_wer_vs_float", short_difference)),
    ("p50/p95 ms", short("latency_ms", lambda row: percentiles(row, "latency_ms").replace(" ", ""))),
    ("speedup", short("speedup", lambda row: number(row, "speedup", "{:.2f}x"))),
    ("MB", short("size_mb", lambda row: number(row, "size_mb", "{:.1f}"))),
]


def bucket_cell(name: str) -> Callable[[Row], str]:
    """Column of one duration bucket: "4.1 (S 3, D 9, I 1; n 40)"."""

    def cell(row: Row) -> str:
        if row["wer_by_duration"] is None:
            return number(row, "wer_by_duration")
        found = row["wer_by_duration"].get(name)
        if found is None:
            return "none"
        kinds = ", ".join(
            f"{key[0].upper()} {found[key]}" for key in ("substitutions", "deletions", "insertions")
        )
        return f"{found['wer']:.2f} ({kinds}; n {found['utterances']})"

    return cell


DURATIONS: list[Column] = [(name.replace("s", " s"), bucket_cell(name)) for name, _, _ in DURATION_BUCKETS]


def markdown_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A GitHub table, one line per row."""
    return markdown_lines(
        [title for title, _ in columns], [[cell(row) for _, cell in columns] for row in rows]
    )


def markdown_lines(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table of cells; vertical bars inside them are escaped."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in [titles, ["---"] * len(titles), *cells])


RECONSTRUCTION: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
    ("layer", lambda item: f"`{item['layer']}`"),
    ("error before", lambda item: f"{item['before']:.3g}"),
    ("error after", lambda item: f"{item['after']:.3g}"),
    ("left", lambda item: f"{100 * item['after'] / item['before']:.0f} %" if item["before"] else "n/a"),
    ("steps", lambda item: str(item["steps"])),
    ("frames", lambda item: str(item["frames"])),
    ("bias corrected", lambda item: "yes" if item["bias_corrected"] else "no"),
]


def report_markdown(
    rows: Sequence[Row], title: str = "Report", reconstruction: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The whole of `report.md`: error rates, durations, speed, coverage and parity, conditions and notes.

    Args:
        rows: the report.
        title: heading.
        reconstruction: what AdaRound and bias correction did to each layer.
    """
    parts = [f"# {title}\n", f"{HOW_TO_READ}\n"]
    sections = [
        ("Word error rate", WER),
        ("WER by duration of the utterance", DURATIONS),
        ("Speed and size", SPEED),
        ("What is quantized, and does the integer file agree", QUANTIZED),
    ]
    for heading, columns in sections:
        parts.append(f"## {heading}\n\n{markdown_table(rows, NAMES + columns)}")
    if reconstruction:
        parts.append(
            "## Reconstruction of each layer\n\nSquared error of all outputs behind the layers done before, mean "
            "over training frames, before and after AdaRound and bias correction.\n\n"
            + markdown_table(reconstruction, RECONSTRUCTION)  # type: ignore[arg-type]
        )
    parts.append("## Conditions\n\n" + "".join(f"- {line}\n" for line in conditions(rows)))
    skipped = skipped_lines(rows)
    if skipped:
        parts.append("## Layers that stay float\n\n" + "".join(f"- {line}\n" for line in skipped))
    notes = list(dict.fromkeys(note for row in rows for note in row["notes"]))
    if notes:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in notes))
    return "\n".join(parts)


def conditions(rows: Sequence[Row]) -> list[str]:
    """What the rows were measured with, each different set once."""
    lines = [
        f"`{row['command']}`: {machine(row)}, seed {row['seed']}, commit {row['git_commit']}; {libraries(row)}"
        for row in rows
    ]
    return list(dict.fromkeys(lines))


def machine(row: Row) -> str:
    """Engine, processor and how latency was taken."""
    vnni = {True: "VNNI", False: "no VNNI", None: "VNNI unknown"}[row["cpu_vnni"]]
    return (
        f"{row['engine']} ({row['provider']}) on {row['device']}, {vnni}, threads {row['threads']}, "
        f"batch {row['batch_size']}, warm-up {row['warmup']}, repeats {row['repeats']}"
    )


def libraries(row: Row) -> str:
    """Versions of what it was made with."""
    return ", ".join(f"{name} {value}" for name, value in (row["versions"] or {}).items())


def skipped_lines(rows: Sequence[Row]) -> list[str]:
    """Layers that the recipe leaves in float, each with its reason, once."""
    pairs = [
        f"`{name}` ({row['method']}): {reason}"
        for row in rows
        for name, reason in (row["coverage"] or {}).get("skipped") or []
    ]
    return list(dict.fromkeys(pairs))


def write_report_markdown(
    path: Path, rows: Sequence[Row], title: str = "Report", reconstruction: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write `report.md` (whole or not at all)."""
    write_text(path, report_markdown(rows, title, reconstruction))


def print_table(rows: Sequence[Row], title: str = "", stream: TextIO | None = None) -> None:
    """Print the rows: a drawn table on a terminal, aligned plain text elsewhere; then why a cell is n/a."""
    stream = stream or sys.stdout
    several = len({row["model"] for row in rows}) > 1
    columns = NAMES[1:2] + TERMINAL if several else TERMINAL
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
        f"n/a ({row['method']}, {key}): {reason_for_null(row, key)}"
        for row in rows
        for key in SHORT_FIELDS
        if row[key] is None and not (row["precision"] == "float" and key in OF_INTEGER_ROWS)
    ]
    for line in dict.fromkeys(unmeasured):
        print(line, file=stream)


def draw_table(names: Sequence[str], cells: Sequence[Sequence[str]], title: str, stream: TextIO) -> None:
    """Draw with lines and colours; on a narrow terminal, intervals and p values go on a second line."""
    console = Console(file=stream, markup=False, highlight=False)
    table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    narrow = console.width < 110
    for name in names:
        table.add_column(two_lines(name) if narrow else name, overflow="fold")
    for line in cells:
        table.add_row(*(two_lines(cell) if narrow else cell for cell in line))
    console.print(table)


def two_lines(cell: str) -> str:
    """The cell with its interval or p value on a line of its own."""
    return cell.replace(" [", "\n[").replace(" (", "\n(").replace(", ", ",")
