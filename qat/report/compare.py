"""Runs side by side: what differs in their settings, error rates paired by utterance, speed, size, changed texts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.errors import UserError
from qat.report.figures import draw_tradeoff, draw_wer
from qat.report.heard import UTTERANCES_FILE
from qat.report.provenance import write_text
from qat.report.row import Row, load_report
from qat.report.significance import Difference, paired_difference
from qat.report.tables import bits, markdown_lines, number, percentiles, with_interval
from qat.runs import read_config

CHANGED = 10  # utterances shown for each run and split
LOWER_IS_BETTER = {"wer": True, "latency": True, "size": True, "speedup": False}
NOT_SETTINGS = ("run", "ckpt_path")  # differ between any two runs
SAME_PLACE = ("engine", "device", "threads", "batch_size")


@dataclass(frozen=True)
class Run:
    """A finished run as its folder tells it.

    Args:
        name: of the folder.
        config: `config.yaml`, flat, keys with dots.
        rows: split -> report row of the run's own model.
        texts: split -> (reference, hypothesis, errors, reference words) of each utterance by its id.
    """

    name: str
    config: Mapping[str, Any]
    rows: Mapping[str, Row]
    texts: Mapping[str, Mapping[str, tuple[str, str, int, int]]]


@dataclass(frozen=True)
class Line:
    """One run on one split.

    Args:
        run: name.
        row: its report row.
        difference: of WER to the first run over the same utterances, paired; None for the first run itself, and
            where the two heard other utterances.
        note: why there is no difference.
    """

    run: str
    row: Row
    difference: Difference | None
    note: str = ""


@dataclass(frozen=True)
class Change:
    """An utterance that two runs heard with another number of errors."""

    run: str
    split: str
    id: str
    reference: str
    before: str
    after: str
    errors_before: int
    errors_after: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Args:
        baseline: name of the first run, which differences are taken from.
        settings: key -> value of each run, only keys whose values differ; a key that a run lacks is left out.
        lines: split -> runs, sorted.
        changes: utterances that changed most, the greatest change first, by run and split.
    """

    baseline: str
    settings: Mapping[str, Mapping[str, Any]]
    lines: Mapping[str, Sequence[Line]]
    changes: Sequence[Change]


def read_run(folder: Path) -> Run:
    """Read a run folder that holds a report.

    Raises:
        UserError: a file is missing or is not what it should be.
    """
    rows = load_report(folder / "report.json")
    path = folder / UTTERANCES_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        own = list(stored["files"])[-1]
        texts = {
            split: {
                name: (reference, heard, errors, words)
                for name, reference, words, heard, errors in zip(
                    items["ids"],
                    items["references"],
                    items["words"],
                    stored["files"][own][split]["hypotheses"],
                    stored["files"][own][split]["errors"],
                    strict=True,
                )
            }
            for split, items in stored["splits"].items()
        }
    except OSError:
        raise UserError(
            f"{path}: is missing; measure the run again with `python evaluate.py report {folder}`"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(f"{path}: not the texts of a run") from None
    own_rows = {row["split"]: row for row in rows}  # the last row of a split is the run's own model
    return Run(folder.name, flat(read_config(folder / "config.yaml")), own_rows, texts)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys.

    >>> flat({"qat": {"weight_bits": 4, "rules": []}})
    {'qat.weight_bits': 4, 'qat.rules': []}
    """
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        key: inner
        for name, item in value.items()
        for key, inner in flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def compare(runs: Sequence[Run], sort: str = "wer", seed: int = 0) -> Comparison:
    """Compare runs; differences are to the first.

    Args:
        runs: at least two, of different names.
        sort: wer, latency, size or speedup: best first.
        seed: of the bootstrap.

    Raises:
        UserError: fewer than two, two of one name, or no split that all have.
    """
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise UserError(f"compare: {len(runs)} run ({', '.join(names)}); at least two are needed")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"compare: two runs are named {twice}")
    splits = [split for split in runs[0].rows if all(split in run.rows for run in runs)]
    if not splits:
        have = "; ".join(f"{run.name}: {', '.join(run.rows)}" for run in runs)
        raise UserError(f"compare: the runs have no test split in common ({have})")
    lines = {
        split: sorted((line_of(run, runs[0], split, seed) for run in runs), key=lambda line: rank(line, sort))
        for split in splits
    }
    changes = [change for run in runs[1:] for split in splits for change in most_changed(run, runs[0], split)]
    return Comparison(names[0], differing_settings(runs), lines, changes)


def differing_settings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Keys whose values are not the same in all runs, with the value of each; a key that a run lacks is left out."""
    keys = sorted({key for run in runs for key in run.config if key not in NOT_SETTINGS})
    return {
        key: {run.name: run.config[key] for run in runs if key in run.config}
        for key in keys
        if any(key not in run.config or run.config[key] != runs[0].config.get(key) for run in runs)
    }


def line_of(run: Run, baseline: Run, split: str, seed: int) -> Line:
    """One run beside the first."""
    if run is baseline:
        return Line(run.name, run.rows[split], None, "the first run")
    mine, theirs = run.texts[split], baseline.texts[split]
    if {name: item[0] for name, item in mine.items()} != {name: item[0] for name, item in theirs.items()}:
        return Line(run.name, run.rows[split], None, "other utterances than the first run's")
    names = list(theirs)
    difference = paired_difference(
        [mine[name][2] for name in names],
        [theirs[name][2] for name in names],
        [theirs[name][3] for name in names],
        seed,
    )
    return Line(run.name, run.rows[split], difference, "" if difference else "fewer than two utterances")


def rank(line: Line, sort: str) -> tuple[bool, float, str]:
    """Sort key: best first, unmeasured last, ties by name."""
    row = line.row
    value = {
        "wer": row["wer"],
        "latency": (row["latency_ms"] or {}).get("p50"),
        "size": row["size_mb"],
        "speedup": row["speedup"],
    }[sort]
    sign = 1.0 if LOWER_IS_BETTER[sort] else -1.0
    return value is None, sign * (value or 0.0), line.run


def most_changed(run: Run, baseline: Run, split: str, count: int = CHANGED) -> list[Change]:
    """The utterances whose errors changed most, greatest change first, ties by id."""
    mine, theirs = run.texts[split], baseline.texts[split]
    changed = [
        Change(run.name, split, name, item[0], theirs[name][1], item[1], theirs[name][2], item[2])
        for name, item in mine.items()
        if name in theirs and theirs[name][0] == item[0] and theirs[name][2] != item[2]
    ]
    return sorted(changed, key=lambda item: (-abs(item.errors_after - item.errors_before), item.id))[:count]


# ---------------------------------------------------------------- output
COLUMNS: list[tuple[str, Callable[[Line], str]]] = [
    ("run", lambda line: line.run),
    ("method", lambda line: line.row["method"]),
    ("bits", lambda line: bits(line.row)),
    ("WER % [95 % CI]", lambda line: with_interval(line.row, "wer", "wer_ci95", "{:.2f}")),
    ("- first [95 % CI] (p)", lambda line: difference_text(line)),
    ("p50 / p95 ms", lambda line: percentiles(line.row, "latency_ms")),
    ("speedup over its float", lambda line: number(line.row, "speedup", "{:.2f}x")),
    ("size MB", lambda line: number(line.row, "size_mb")),
]


def difference_text(line: Line) -> str:
    """ "+0.31 [-0.02, 0.65] (p 0.0641)"."""
    if line.difference is None:
        return f"n/a ({line.note})"
    low, high = line.difference.ci95
    return f"{line.difference.mean:+.2f} [{low:+.2f}, {high:+.2f}] (p {line.difference.p_value:.4f})"


def markdown(found: Comparison, figures: Sequence[Path] = ()) -> str:
    """The whole comparison as Markdown."""
    runs = [line.run for line in next(iter(found.lines.values()))]
    runs = [found.baseline, *(name for name in runs if name != found.baseline)]
    parts = [
        "# Comparison\n",
        f"Differences are to `{found.baseline}`, over the same utterances (paired bootstrap); p < 0.05 means that one "
        "is hardly chance.\n",
    ]
    for split, lines in found.lines.items():
        table = markdown_lines(
            [title for title, _ in COLUMNS], [[cell(line) for _, cell in COLUMNS] for line in lines]
        )
        parts.append(f"## {split}\n\n{table}")
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
        titles = ["run", "split", "id", "reference", found.baseline, "run heard", "errors"]
        parts.append("## Utterances that changed most\n\n" + markdown_lines(titles, cells))
    if figures:
        parts.append("".join(f"![{path.stem}]({path.name})\n" for path in figures))
    return "\n".join(parts)


def place_warning(found: Comparison) -> str:
    """A sentence where latencies were not taken in one place; "" where they were."""
    rows = [line.row for lines in found.lines.values() for line in lines]
    differ = [key for key in SAME_PLACE if len({row[key] for row in rows}) > 1]
    if not differ:
        return (
            "Each run was timed in turns with its own float file, not with the other runs: compare speedups."
        )
    values = "; ".join(f"{key}: {', '.join(sorted({str(row[key]) for row in rows}))}" for key in differ)
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
                    "row": line.row,
                }
                for line in lines
            ]
            for split, lines in found.lines.items()
        },
        "changes": [vars(item) for item in found.changes],
    }


def table(found: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines of a flat table with numbers, one line a run and split."""
    titles = ["split", "run", "method", "bits", "wer", "wer_low", "wer_high"]
    titles += ["difference", "difference_low", "difference_high", "p_value"]
    titles += ["latency_p50_ms", "latency_p95_ms", "speedup", "size_mb"]
    lines: list[list[Any]] = []
    for split, members in found.lines.items():
        for line in members:
            row, gap = line.row, line.difference
            latency = row["latency_ms"] or {}
            lines.append(
                [
                    *(split, line.run, row["method"], bits(row), row["wer"]),
                    *(row["wer_ci95"] or (None, None)),
                    *((gap.mean, *gap.ci95, gap.p_value) if gap else (None,) * 4),
                    *(latency.get("p50"), latency.get("p95"), row["speedup"], row["size_mb"]),
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
    named = [{**line.row, "method": line.run} for lines in found.lines.values() for line in lines]
    drawn = [draw_wer(folder / "wer.png", named)]
    first, lines = next(iter(found.lines.items()))
    points = {
        line.run: [
            {
                "bits": bits(line.row),
                "wer": line.row["wer"],
                "size_mb": line.row["size_mb"],
                "latency_ms": (line.row["latency_ms"] or {}).get("p50"),
            }
        ]
        for line in lines
        if line.row["wer"]  # the axis is logarithmic
    }
    for key in ("size_mb", "latency_ms"):
        if any(point[key] is not None for line in points.values() for point in line):
            drawn.append(draw_tradeoff(folder / f"wer_{key.partition('_')[0]}.png", points, key, first))
    return [path for path in drawn if path is not None]
