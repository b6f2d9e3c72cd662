"""Rows -> Markdown tables and `report.md`. Reads nothing but the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qat.evaluation.error_rates import DURATION_BUCKETS
from qat.evaluation.measurement import BeamPoint
from qat.report.cells import (
    NOT_APPLICABLE,
    VARIANT,
    applies,
    bits,
    bucket_cell,
    errors,
    number,
    p_cell,
    percentiles,
    share,
    short,
    short_difference,
    with_interval,
)  # fmt: skip
from qat.report.row import Row, reason_for_null
from qat.runs import PARETO_FILE, SEARCH_FOLDER
from qat.system.files import write_text

T = TypeVar("T")
HOW_TO_READ = (
    "How to read: WER is corpus level, in percent, with its 95 % bootstrap interval over utterances; the "
    "difference to float is paired (same utterances, same draws), and p < 0.05 means that it is hardly "
    "chance. WER and latency of a row belong to the same exported file; float and integer files were timed "
    "taking turns on the same device, engine and threads. S, D, I: substitutions, deletions, insertions. "
    "`-`: does not apply to this row; n/a (reason): not measured."
)
Column = tuple[str, Callable[[Row], str]]

FILE: list[Column] = [
    ("model", lambda row: row.model),
    ("method", lambda row: row.method),
    ("bits", bits),
    ("file", lambda row: row.precision),
]
NAMES: list[Column] = [("split", lambda row: row.split), *FILE]
WER: list[Column] = [
    ("utterances", lambda row: number(row, "utterances", "{}")),
    ("WER % [95 % CI]", lambda row: with_interval(row, "wer", "wer_ci95", "{:.2f}")),
    ("S / D / I", errors),
    ("CER %", lambda row: number(row, "cer")),
    (
        "WER - float [95 % CI]",
        lambda row: with_interval(row, "delta_wer_vs_float.mean", "delta_wer_vs_float.ci95", "{:+.2f}"),
    ),
    ("p", p_cell),
]
SEEN_TEXTS: Column = (
    "texts in train",
    lambda row: NOT_APPLICABLE if row.texts_in_train is None else str(row.texts_in_train),
)
DURATIONS: list[Column] = [(name.replace("s", " s"), bucket_cell(name)) for name, _, _ in DURATION_BUCKETS]
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
]
SEARCH: Column = ("search", lambda row: row.decoding or NOT_APPLICABLE)
PARITY: list[Column] = [
    ("max logit gap", lambda row: number(row, "parity.max_abs_logit", "{:.3g}")),
    ("frames that differ", lambda row: share(row, "parity.argmax_disagreement")),
    ("WER fake-quant %", lambda row: number(row, "parity.wer_fake")),
    ("WER integer %", lambda row: number(row, "parity.wer_integer")),
]
DIFFERING: Column = (
    "utterances that differ",
    lambda row: share(row, "parity.differing_utterances") if has_tokens(row) else NOT_APPLICABLE,
)
TERMINAL: list[Column] = [
    *(column for column in NAMES if column[0] in ("split", "method", "bits")),
    ("WER % [95 % CI]", short("wer", WER[1][1])),
    ("vs float (p)", short("delta_wer_vs_float", short_difference)),
    ("p50/p95 ms", short("latency_ms", lambda row: percentiles(row, "latency_ms").replace(" ", ""))),
    ("speedup", short("speedup", lambda row: number(row, "speedup", "{:.2f}x"))),
    ("MB", short("size_mb", lambda row: number(row, "size_mb", "{:.1f}"))),
]
BEAMS: list[tuple[str, Callable[[BeamPoint], str]]] = [
    ("beam", lambda point: str(point.beam)),
    ("WER % on dev", lambda point: "n/a" if point.wer is None else f"{point.wer:.2f}"),
    ("p50 ms", lambda point: f"{point.latency_ms:.1f}"),
    ("utterances", lambda point: str(point.utterances)),
]
PARTS = {"search": "rest of the search"}
RECONSTRUCTION: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
    ("layer", lambda item: f"`{item['layer']}`"),
    ("error before", lambda item: f"{item['before']:.3g}"),
    ("error after", lambda item: f"{item['after']:.3g}"),
    ("left", lambda item: f"{100 * item['after'] / item['before']:.0f} %" if item["before"] else "n/a"),
    ("steps", lambda item: str(item["steps"])),
    ("frames", lambda item: str(item["frames"])),
    ("bias corrected", lambda item: "yes" if item["bias_corrected"] else "no"),
]


def markdown_table(rows: Sequence[T], columns: Sequence[tuple[str, Callable[[T], str]]]) -> str:
    """A GitHub table, one line per row."""
    return markdown_lines(
        [title for title, _ in columns], [[cell(row) for _, cell in columns] for row in rows]
    )


def file_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A GitHub table of what does not depend on the test set: one line per exported file."""
    lines = {tuple(cell(row) for _, cell in [*FILE, *columns]): None for row in rows}
    return markdown_lines([title for title, _ in [*FILE, *columns]], list(lines))


def markdown_lines(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table of cells; vertical bars inside them are escaped."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in [titles, ["---"] * len(titles), *cells])


def has_tokens(row: Row) -> bool:
    """Whether the tokens of file and module were compared."""
    return row.parity is not None and row.parity.differing_utterances is not None


def is_variant(row: Row) -> bool:
    """Whether a row is another one's model with a part left out or in float."""
    return row.parity is None and reason_for_null(row.notes, "parity") == VARIANT


def names_of(rows: Sequence[Row]) -> list[Column]:
    """What names a row, with its search where any row has one to name."""
    return [*NAMES, SEARCH] if any(row.decoding for row in rows) else NAMES


def errors_of(rows: Sequence[Row]) -> list[Column]:
    """Error rates of a row, with its texts that are in train where any row counts them."""
    return [WER[0], SEEN_TEXTS, *WER[1:]] if any(row.texts_in_train is not None for row in rows) else WER


def parts_table(rows: Sequence[Row]) -> str:
    """Medians of the parts of a transcription, one line per file; "" where no file has parts."""
    timed = [row for row in rows if row.parts_ms]
    names = list(dict.fromkeys(name for row in timed for name in row.parts_ms or {}))
    return file_table(timed, [SEARCH, *(part_column(name) for name in names)]) if timed else ""


def part_column(name: str) -> Column:
    """The milliseconds of one part."""

    def cell(row: Row) -> str:
        value = (row.parts_ms or {}).get(name)
        return NOT_APPLICABLE if value is None else f"{value:.1f}"

    return f"{PARTS.get(name, name.replace('_', ' '))} p50 ms", cell


def report_markdown(
    rows: Sequence[Row],
    title: str = "Report",
    reconstruction: Sequence[Mapping[str, Any]] = (),
    beams: Sequence[BeamPoint] = (),
    searched: str = "",
) -> str:
    """The whole of `report.md`: error rates, durations, speed, coverage and parity, conditions and notes.

    Args:
        rows: the report.
        title: heading.
        reconstruction: what AdaRound and bias correction did to each layer.
        beams: what each beam width gives on dev.
        searched: text of the recipe that a search found.
    """
    integer = [row for row in rows if row.precision == "integer" and not is_variant(row)]
    parity = [*PARITY, DIFFERING] if any(has_tokens(row) for row in integer) else PARITY
    sections = {
        "Word error rate": markdown_table(rows, names_of(rows) + errors_of(rows)),
        "WER by duration of the utterance": markdown_table(rows, NAMES + DURATIONS),
        "Speed and size of each file": file_table(rows, SPEED),
        "Parts of a transcription": parts_table(rows),
        "Error rate and latency by beam": (
            "The run's own model on dev, in the process that measures; the test sets are not for choosing a beam.\n\n"
            + markdown_table(beams, BEAMS)
        )
        if beams
        else "",
        "What is quantized": file_table(rows, QUANTIZED),
        "Agreement of integer file and fake-quantized model": markdown_table(integer, NAMES + parity)
        if integer
        else "",
        "Reconstruction of each layer": (
            "Squared error of all outputs after the layers reconstructed so far, mean over training frames, before "
            "and after AdaRound and bias correction.\n\n" + markdown_table(reconstruction, RECONSTRUCTION)
        )
        if reconstruction
        else "",
        "Recipe that the search found": (
            f"![Loss against time]({SEARCH_FOLDER}/{PARETO_FILE})\n\n```yaml\n{searched}```\n"
        )
        if searched
        else "",
        "Conditions": markdown_list(conditions(rows)),
        "Layers that stay float": markdown_list(skipped_lines(rows)),
        "Notes": markdown_list(notes(rows)),
    }
    parts = [f"## {heading}\n\n{text}" for heading, text in sections.items() if text]
    return "\n".join([f"# {title}\n", f"{HOW_TO_READ}\n", *parts])


def markdown_list(lines: Sequence[str]) -> str:
    """A list with one line each; "" for none."""
    return "".join(f"- {line}\n" for line in lines)


def conditions(rows: Sequence[Row]) -> list[str]:
    """What the rows were measured with, each different set once."""
    lines = [
        f"`{row.command}`: {machine(row)}, seed {row.seed}, commit {row.git_commit}; {libraries(row)}"
        for row in rows
    ]
    return list(dict.fromkeys(lines))


def machine(row: Row) -> str:
    """Engine, processor and how latency was taken."""
    vnni = {True: "VNNI", False: "no VNNI", None: "VNNI unknown"}[row.cpu_vnni]
    return (
        f"{row.engine} ({row.provider}) on {row.device}, {vnni}, threads {row.threads}, "
        f"batch {row.batch_size}, warm-up {row.warmup}, repeats {row.repeats}"
    )


def libraries(row: Row) -> str:
    """Versions of what it was made with."""
    return ", ".join(f"{name} {value}" for name, value in (row.versions or {}).items())


def skipped_lines(rows: Sequence[Row]) -> list[str]:
    """Layers that the recipe leaves in float, each with its reason, once."""
    pairs = [
        f"`{name}` ({row.method}): {reason}"
        for row in rows
        if row.coverage is not None
        for name, reason in row.coverage.skipped or []
    ]
    return list(dict.fromkeys(pairs))


def notes(rows: Sequence[Row]) -> list[str]:
    """The rows' notes, each once, but for those on fields that do not apply."""
    told = [
        note
        for row in rows
        for note in row.notes
        if applies(row, note.partition(":")[0]) and not (is_variant(row) and note.endswith(VARIANT))
    ]
    return list(dict.fromkeys(told))


def write_report_markdown(
    path: Path,
    rows: Sequence[Row],
    title: str = "Report",
    reconstruction: Sequence[Mapping[str, Any]] = (),
    beams: Sequence[BeamPoint] = (),
    searched: str = "",
) -> None:
    """Write `report.md` (whole or not at all)."""
    write_text(path, report_markdown(rows, title, reconstruction, beams, searched))
