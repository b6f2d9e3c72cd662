"""What the rows of `benchmarks.gpu` say together: ratios to float, aims, and the tables of docs/gpu.md."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import FAILED, FLOAT, FLOAT_AGAIN, LEARNED, MEASURED, NOT_RUN, PASSED, Row
from benchmarks.result_file import table

STEP_AIMS = {"deterministic": 1.10, "stochastic": 1.15, LEARNED: 1.25}  # of a step, relative to a float one
EVALUATION_AIM, MEMORY_AIM = 1.5, 1.10
RATIOS = {"step_ms": "ratio", "evaluation_ms": "evaluation_ratio", "peak_memory_gb": "peak_memory_ratio"}
ABSENT = "`python -m benchmarks.gpu` has not been run on this version.\n"


def related(rows: list[Row]) -> list[Row]:
    """The rows, those of steps with their ratios to the float rows of the same model and batch, aims, and the spread.

    A float model is measured before and after the others; ratios are to the mean of both.
    """
    found = []
    for row in rows:
        if row["part"] == "step" and row["status"] == MEASURED:
            row = {**row, **ratios(row, rows)}
            row = {**row, **aims(row)}
        found.append(row)
    return found


def ratios(row: Row, rows: list[Row]) -> Row:
    """How a measured row stands to float; of a compiled one also to compiled float; of a float one the spread."""
    values: Row = {}
    plain = [same for name in (FLOAT, FLOAT_AGAIN) for same in beside(row, rows, name)]
    if row["variant"] == FLOAT and len(plain) > 1:
        times = [other["step_ms"] for other in plain]
        values["float_spread"] = (max(times) - min(times)) / min(times)
    for key, name in RATIOS.items() if row["variant"] not in (FLOAT, FLOAT_AGAIN) else ():
        known = [other[key] for other in plain if other.get(key)]
        if known and row.get(key):
            values[name] = row[key] / statistics.mean(known)
    if row["variant"].startswith("compiled"):
        compiled = list(beside(row, rows, f"compiled {FLOAT}"))
        if compiled:
            values["ratio_to_compiled_float"] = row["step_ms"] / compiled[0]["step_ms"]
    return values


def beside(row: Row, rows: list[Row], variant: str) -> Iterator[Row]:
    """Measured rows of the same model and batch and of a variant."""
    for other in rows:
        measured = (other["part"], other["status"]) == ("step", MEASURED)
        if (
            measured
            and all(other[key] == row[key] for key in ("model", "batch"))
            and other["variant"] == variant
        ):
            yield other


def aims(row: Row) -> Row:
    """The aims of a row with ratios, and whether it meets them; none where there is no ratio."""
    variant, values = row["variant"], {}
    if variant not in STEP_AIMS:
        return {}
    for key, aim in (
        ("ratio", STEP_AIMS[variant]),
        ("evaluation_ratio", EVALUATION_AIM),
        ("peak_memory_ratio", MEMORY_AIM),
    ):
        if key in row:
            values[f"{key}_aim"] = aim
            values[f"{key}_met"] = row[key] <= aim
    return values


def check_lines(rows: list[Row]) -> Iterator[Row]:
    """A line for each group of checks."""
    groups = dict.fromkeys(row["group"] for row in rows if row["part"] == "check")
    for group in groups:
        own = [row for row in rows if row["part"] == "check" and row["group"] == group]
        passed = sum(row["status"] == PASSED for row in own)
        yield {
            "check": group,
            "passed": f"{passed} of {len(own)}",
            "failed": ", ".join(row["case"] for row in own if row["status"] == FAILED),
            "not run": ", ".join(not_run(row) for row in own if row["status"] == NOT_RUN),
            "largest relative difference": largest(own),
        }


def not_run(row: Row) -> str:
    """A case that has not run, and why."""
    return f"{row['case']} ({row['note'].splitlines()[0]})" if row["note"] else row["case"]


def largest(rows: list[Row]) -> str:
    """The largest difference that the cases of a group measured; empty where they measure none."""
    key = "largest_relative_difference"
    found = [row[key] for row in rows if key in row]
    return f"{max(found):.1e}" if found else ""


def step_lines(rows: list[Row]) -> Iterator[Row]:
    """A line for each measured model, batch and variant."""
    for row in rows:
        if row["part"] != "step":
            continue
        line = {"model": row["model"], "batch": row["batch"], "training": row["variant"]}
        if row["status"] != MEASURED:
            said = row["note"].strip().splitlines() or [""]
            note = next((text for text in reversed(said) if "Error: " in text), said[-1])
            yield {**line, "step ms": f"{row['status']}: {note}" if note else row["status"]}
            continue
        yield {
            **line,
            "step ms": f"{row['step_ms']:.1f}",
            "ratio": cell(row, "ratio") or spread(row),
            "evaluation ms": number(row.get("evaluation_ms"), ".1f"),
            "evaluation ratio": cell(row, "evaluation_ratio"),
            "memory GB": number(row.get("peak_memory_gb"), ".1f"),
            "memory ratio": cell(row, "peak_memory_ratio"),
            "launches": number(row.get("launches"), ",d"),
            "kernels ms": number(row.get("kernel_ms"), ".1f"),
        }


STEP_COLUMNS = (
    *("model", "batch", "training", "step ms", "ratio", "evaluation ms", "evaluation ratio"),
    *("memory GB", "memory ratio", "launches", "kernels ms"),
)


def cell(row: Row, key: str) -> str:
    """A ratio, and where it has an aim whether it is met.

    >>> cell({"ratio": 1.234, "ratio_aim": 1.15, "ratio_met": False}, "ratio")
    '1.23 (<= 1.15: missed)'
    """
    if key not in row:
        return ""
    text = f"{row[key]:.2f}"
    if f"{key}_aim" not in row:
        return text
    return f"{text} (<= {row[f'{key}_aim']:.2f}: {'met' if row[f'{key}_met'] else 'missed'})"


def spread(row: Row) -> str:
    """By how much the two measurements of float differ, in percent of the smaller."""
    return f"spread {100 * row['float_spread']:.0f} %" if "float_spread" in row else ""


def number(value: float | None, form: str) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else format(value, form)


def tables(rows: list[Row]) -> dict[str, str]:
    """`checks` and `steps`, as Markdown; one that has no lines is left out."""
    checks, steps = list(check_lines(rows)), list(step_lines(rows))
    found = {}
    if checks:
        found["checks"] = table(checks, list(checks[0]))
    if steps:
        found["steps"] = table(steps, STEP_COLUMNS)
    return found


def block(path: Path, words: str) -> str:
    """A table of the result file, with what gave it; a sentence where no file is stored.

    Args:
        path: of the result file.
        words: `checks` or `steps`.
    """
    if not path.is_file():
        return ABSENT
    stored: dict[str, Any] = json.loads(path.read_text())
    versions = ", ".join(f"{name} {value}" for name, value in stored["versions"].items())
    commit, driver = (stored[key] or "unknown" for key in ("git_commit", "driver"))
    made = (
        f"`{stored['command']}` on {stored['device']} (driver {driver}), commit {commit[:12]}, "
        f"{stored['started_at'][:10]}, {stored['duration_s']:.0f} s; {versions}"
    )
    part = words.removesuffix("s")
    earlier = Counter(
        row["git_commit"] for row in stored["results"] if row["part"] == part and "git_commit" in row
    )
    kept = "".join(f"; {count} of the rows at commit {commit[:12]}" for commit, count in earlier.items())
    return f"{tables(stored['results']).get(words, 'Nothing was measured.')}\n\n{made}{kept}\n"
