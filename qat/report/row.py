"""The report row: its fields, building, validating, loading and saving (`checkpoints/<run>/report.json`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qat.evaluation.error_rates import DURATION_BUCKETS
from qat.system.errors import UserError
from qat.system.files import sha256_path, write_text
from qat.system.hardware import cpu_has_vnni
from qat.system.provenance import config_sha256, provenance

__all__ = [
    "FIELDS", "Row", "build_row", "config_sha256", "load_report", "provenance", "reason_for_null",
    "row_problems", "save_report", "sha256_path", "validate_row",
]  # fmt: skip

Row = dict[str, Any]
INFINITY = float("inf")


@dataclass(frozen=True)
class Field:
    """What one field of a row may hold.

    Attributes:
        kinds: allowed types (an int passes for a float, a bool for neither).
        low: least number allowed.
        high: greatest number allowed.
        choices: allowed values; empty means any.
        pattern: regular expression that a text must match as a whole; "" means any text but the empty one.
        keys: fields of a nested object.
        required: never null.
        silent: null has a meaning of its own (float, no suite) and needs no note.
    """

    kinds: tuple[type, ...]
    low: float = -INFINITY
    high: float = INFINITY
    choices: tuple[str, ...] = ()
    pattern: str = ""
    keys: Mapping[str, Field] | None = None
    required: bool = False
    silent: bool = False


NAME = Field((str,), required=True)
TEXT = Field((str,))
COUNT = Field((int,), low=0)
AMOUNT = Field((float,), low=0)
NUMBER = Field((float,))
SHARE = Field((float,), low=0, high=1)
PAIR = Field((list,))
SHA256 = Field((str,), pattern="[0-9a-f]{64}")
BITS = Field((int, str), low=2, high=8, pattern="[2-8](/[2-8])+", silent=True)  # "4/8": rules mix widths


def _object(silent: bool = False, **keys: Field) -> Field:
    return Field((dict,), keys=keys, silent=silent)


LATENCY = _object(p50=AMOUNT, p95=AMOUNT)
FIELDS: dict[str, Field] = {
    "run": NAME, "suite_row": Field((str,), silent=True), "model": NAME, "method": NAME,
    "weight_bits": BITS, "activation_bits": BITS,
    "rounding": Field((str,), choices=("nearest", "stochastic"), silent=True), "seed": Field((int,)),
    "dataset": NAME, "split": NAME, "utterances": COUNT, "reference_words": COUNT,
    "wer": AMOUNT, "wer_ci95": PAIR, "cer": AMOUNT,
    "substitutions": COUNT, "deletions": COUNT, "insertions": COUNT,
    "delta_wer_vs_float": _object(mean=NUMBER, ci95=PAIR, p_value=SHARE),
    "wer_by_duration": Field((dict,)),
    "engine": TEXT, "provider": TEXT, "precision": Field((str,), choices=("integer", "float"), required=True),
    "device": TEXT, "threads": Field((int,), low=1), "cpu_vnni": Field((bool,)),
    "batch_size": Field((int,), low=1),
    "latency_ms": LATENCY, "rtf": AMOUNT, "warmup": COUNT, "repeats": COUNT,
    "float_latency_ms": LATENCY, "speedup": AMOUNT,
    "size_mb": AMOUNT, "float_size_mb": AMOUNT, "peak_memory_mb": AMOUNT,
    "coverage": _object(
        weights=SHARE, macs=SHARE, layers_quantized=COUNT, layers_total=COUNT, skipped=Field((list,))
    ),
    "integer_nodes": COUNT, "float_compute_nodes": COUNT,
    "parity": _object(max_abs_logit=AMOUNT, argmax_disagreement=SHARE, wer_fake=AMOUNT, wer_integer=AMOUNT),
    "config_sha256": SHA256, "checkpoint_sha256": SHA256,
    "git_commit": Field((str,), pattern="[0-9a-f]{40}(-dirty)?"),
    "versions": Field((dict,)), "command": TEXT,
    "started_at": Field((str,), pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)"),
    "duration_s": AMOUNT,
    "notes": Field((list,), required=True),
}  # fmt: skip
REASONS = {
    "git_commit": "not in a git checkout",
    "delta_wer_vs_float": "no float model was measured beside it",
}
REASONS_ONCE_HEARD = {
    "wer": "the split has no reference words",
    "cer": "the split has no reference characters",
    "wer_ci95": "needs at least two utterances",
}
OF_INTEGER_ROWS = frozenset(
    ("delta_wer_vs_float", "float_latency_ms", "speedup", "float_size_mb")
    + ("coverage", "integer_nodes", "parity")
)


def build_row(**parts: Any) -> Row:
    """A valid row from what was measured: missing fields become null with a note, values become builtins.

    Args:
        parts: fields of the row; `notes` holds "field: reason" lines. `cpu_vnni` is found when left out.

    Raises:
        UserError: an unknown field, or a value that its field does not allow.
    """
    unknown = [key for key in parts if key not in FIELDS]
    if unknown:
        raise UserError(f"report row: unknown field {unknown[0]!r}; allowed: {', '.join(FIELDS)}")
    values = {key: plain(value) for key, value in parts.items()}
    values.setdefault("cpu_vnni", cpu_has_vnni())
    row: Row = {key: values.get(key) for key in FIELDS}
    row["notes"] = list(values.get("notes") or [])
    for key, field in FIELDS.items():
        if field.keys and isinstance(row[key], dict):
            row[key] = {name: row[key].get(name) for name in field.keys} | row[key]
    for path in list(_nulls(row)):
        if not _has_note(row, path):
            row["notes"].append(f"{path}: {_default_reason(row, path)}")
    validate_row(row)
    return row


def validate_row(row: Row, source: str = "report row") -> None:
    """Check fields, types, ranges and consistency.

    Raises:
        UserError: the first problem, after `source` and the row's run and split.
    """
    problem = next(row_problems(row), None)
    if problem:
        raise UserError(f"{source}: run {row.get('run')!r}, split {row.get('split')!r}: {problem}")


def row_problems(row: Row) -> Iterator[str]:
    """Every problem of a row, one line each; none for a valid row."""
    yield from (f"field {key!r} is missing" for key in FIELDS if key not in row)
    yield from (f"unknown field {key!r}" for key in row if key not in FIELDS)
    for key, field in FIELDS.items():
        if key in row:
            yield from _field_problems(key, row[key], field)
    if all(key in row for key in FIELDS) and isinstance(row["notes"], list):
        unexplained = (path for path in _nulls(row) if not _has_note(row, path))
        yield from (f"{path} is null and no note says why" for path in unexplained)
        yield from _inconsistencies(row)


def reason_for_null(row: Row, path: str) -> str:
    """Why a field is null, from the row's notes; "" when no note names it.

    >>> reason_for_null({"notes": ["parity: no integer file"]}, "parity.wer_fake")
    'no integer file'
    """
    parts = path.split(".")
    for name in (".".join(parts[:count]) for count in range(len(parts), 0, -1)):
        for note in row["notes"]:
            if note.startswith(f"{name}:"):
                return note[len(name) + 1 :].strip()
    return ""


def save_report(path: Path, rows: Sequence[Row]) -> None:
    """Validate the rows and write them as a JSON list, whole or not at all.

    Raises:
        UserError: a row is not valid.
    """
    for row in rows:
        validate_row(row, str(path))
    write_text(path, json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load_report(path: Path) -> list[Row]:
    """Read and validate the rows of a report.

    Raises:
        UserError: the file is missing, is not a JSON list of objects, or holds a row that is not valid.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: no report to read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a report is a list of objects")
    for row in rows:
        validate_row(row, str(path))
    return rows


def plain(value: Any) -> Any:
    """Nested builtins that JSON can hold, from numpy numbers, tuples, paths and objects with `to_dict`."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value


def _default_reason(row: Row, path: str) -> str:
    if row["precision"] == "float" and path in OF_INTEGER_ROWS:
        return "this row is the float model"
    known = REASONS | REASONS_ONCE_HEARD if row["utterances"] is not None else REASONS
    return known.get(path, "not measured")


def _nulls(row: Row) -> Iterator[str]:
    for key, field in FIELDS.items():
        value = row[key]
        if value is None and not field.silent and not field.required:
            yield key
        elif field.keys and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in field.keys if value.get(name) is None)


def _has_note(row: Row, path: str) -> bool:
    return bool(reason_for_null(row, path))


def _field_problems(path: str, value: Any, field: Field) -> Iterator[str]:
    if value is None:
        if field.required:
            yield f"{path} may not be null"
    elif not _is_kind(value, field.kinds):
        names = " or ".join(kind.__name__ for kind in field.kinds)
        yield f"{path} is {value!r}, must be {names}"
    elif isinstance(value, str):
        yield from _text_problems(path, value, field)
    elif isinstance(value, int | float):
        if not (math.isfinite(value) and field.low <= value <= field.high):
            yield f"{path} is {value!r}, must be a finite number in [{field.low}, {field.high}]"
    elif field is PAIR:
        if not (len(value) == 2 and all(_is_kind(item, (float,)) for item in value) and value[0] <= value[1]):
            yield f"{path} is {value!r}, must be [low, high]"
    elif field.keys:
        yield from (f"{path}.{name} is missing" for name in field.keys if name not in value)
        yield from (f"unknown field '{path}.{name}'" for name in value if name not in field.keys)
        for name, inner in field.keys.items():
            yield from _field_problems(f"{path}.{name}", value.get(name), inner)


def _text_problems(path: str, value: str, field: Field) -> Iterator[str]:
    if not value or (field.pattern and not re.fullmatch(field.pattern, value)):
        yield f"{path} is {value!r}, must " + (f"match {field.pattern}" if field.pattern else "not be empty")
    if field.choices and value not in field.choices:
        yield f"{path} is {value!r}, allowed: {', '.join(field.choices)}"


def _is_kind(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _inconsistencies(row: Row) -> Iterator[str]:
    counts = [row[key] for key in ("substitutions", "deletions", "insertions", "reference_words", "wer")]
    if all(_is_kind(item, (float,)) for item in counts) and counts[3]:
        expected = 100.0 * sum(counts[:3]) / counts[3]
        if abs(expected - counts[4]) > 1e-6 * max(1.0, expected):
            yield f"wer is {counts[4]}, but its error counts give {expected}"
    for key in ("latency_ms", "float_latency_ms"):
        times = row[key]
        if isinstance(times, dict) and None not in times.values() and times["p50"] > times["p95"]:
            yield f"{key}: p50 {times['p50']} is greater than p95 {times['p95']}"
    names = [name for name, _, _ in DURATION_BUCKETS]
    for bucket in row["wer_by_duration"] or {}:
        if bucket not in names:
            yield f"wer_by_duration: unknown bucket {bucket!r}; allowed: {', '.join(names)}"
