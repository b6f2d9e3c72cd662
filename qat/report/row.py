"""The report row: one model on one test split, with what produced it; building, checking, loading and saving."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qat.evaluation.error_rates import DURATION_BUCKETS
from qat.report.fields import (
    PAIR,
    field_problems,
    from_builtins,
    is_kind,
    kinds_of,
    limited,
    null_paths,
    without_absent,
)
from qat.system.errors import UserError
from qat.system.files import write_text
from qat.system.hardware import cpu_has_vnni

Bits = int | str | None  # 8, or "4/8" where rules mix widths; None: float
SHA256 = "[0-9a-f]{64}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)"


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one utterance."""

    p50: float | None = limited(low=0)
    p95: float | None = limited(low=0)


@dataclass(frozen=True)
class WerDifference:
    """WER minus that of the float model, in points, from the paired bootstrap."""

    mean: float | None
    ci95: PAIR | None
    p_value: float | None = limited(low=0, high=1)


@dataclass(frozen=True)
class CoverageShares:
    """What is quantized: shares in [0, 1], numbers of layers, and [name, why] of each layer that is not.

    The means of the bits are over all weights, and over the layers' multiply-adds, 32 where they are float; rows from
    before they were counted have none.
    Where channels were equalized, also the number of pairs of layers, and [name, why] of each pair that was not.
    """

    weights: float | None = limited(low=0, high=1)
    macs: float | None = limited(low=0, high=1)
    mean_weight_bits: float | None = limited(low=2, high=32, optional=True)
    mean_activation_bits: float | None = limited(low=2, high=32, optional=True)
    layers_quantized: int | None = limited(low=0)
    layers_total: int | None = limited(low=0)
    skipped: list[list[str]] | None = limited()
    pairs_equalized: int | None = limited(low=0, optional=True)
    pairs_not_equalized: list[list[str]] | None = limited(optional=True)


@dataclass(frozen=True)
class ParityGap:
    """How far the integer file is from the fake-quantized module: logits, share of frames, WER in percent.

    Where tokens are searched, also the share of utterances whose tokens differ.
    """

    max_abs_logit: float | None = limited(low=0)
    argmax_disagreement: float | None = limited(low=0, high=1)
    wer_fake: float | None = limited(low=0)
    wer_integer: float | None = limited(low=0)
    differing_utterances: float | None = limited(low=0, high=1, optional=True)


@dataclass(frozen=True)
class Row:
    """One model on one test split; the design names every field. A null has its reason in `notes`.

    `decoding` names the search of an attention model, `parts_ms` the medians of its parts; both are absent elsewhere.
    `texts_in_train` counts the utterances whose text is in train too; absent where it was not counted.
    """

    run: str
    suite_row: str | None = limited(silent=True)
    model: str = limited()
    method: str = limited()
    weight_bits: Bits = limited(low=2, high=8, pattern="[2-8](/[2-8])+", silent=True)
    activation_bits: Bits = limited(low=2, high=8, pattern="[2-8](/[2-8])+", silent=True)
    rounding: str | None = limited(choices=("nearest", "stochastic"), silent=True)
    seed: int | None = limited()
    dataset: str = limited()
    split: str = limited()
    utterances: int | None = limited(low=0)
    reference_words: int | None = limited(low=0)
    texts_in_train: int | None = limited(low=0, optional=True)
    wer: float | None = limited(low=0)
    wer_ci95: PAIR | None = limited()
    cer: float | None = limited(low=0)
    substitutions: int | None = limited(low=0)
    deletions: int | None = limited(low=0)
    insertions: int | None = limited(low=0)
    delta_wer_vs_float: WerDifference | None = limited()
    wer_by_duration: dict[str, dict[str, Any]] | None = limited()
    decoding: str | None = limited(optional=True)
    engine: str | None = limited()
    provider: str | None = limited()
    precision: str = limited(choices=("integer", "float"))
    device: str | None = limited()
    threads: int | None = limited(low=1)
    cpu_vnni: bool | None = limited()
    batch_size: int | None = limited(low=1)
    latency_ms: Latency | None = limited()
    parts_ms: dict[str, float] | None = limited(optional=True)
    rtf: float | None = limited(low=0)
    warmup: int | None = limited(low=0)
    repeats: int | None = limited(low=0)
    float_latency_ms: Latency | None = limited()
    speedup: float | None = limited(low=0)
    size_mb: float | None = limited(low=0)
    float_size_mb: float | None = limited(low=0)
    peak_memory_mb: float | None = limited(low=0)
    coverage: CoverageShares | None = limited()
    integer_nodes: int | None = limited(low=0)
    float_compute_nodes: int | None = limited(low=0)
    parity: ParityGap | None = limited()
    config_sha256: str | None = limited(pattern=SHA256)
    checkpoint_sha256: str | None = limited(pattern=SHA256)
    git_commit: str | None = limited(pattern="[0-9a-f]{40}(-dirty)?")
    versions: dict[str, Any] | None = limited()
    command: str | None = limited()
    started_at: str | None = limited(pattern=TIME)
    duration_s: float | None = limited(low=0)
    notes: list[str] = limited()

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        return plain(without_absent(type(self), asdict(self)))


FIELDS = tuple(kinds_of(Row))
REQUIRED = tuple(name for name, kind in kinds_of(Row).items() if not kind.limits.optional)
FLAT_FIELDS = tuple(
    name for name, kind in kinds_of(Row).items() if kind.record is None and not kind.limits.optional
)
REASONS = {
    "git_commit": "not in a git checkout",
    "delta_wer_vs_float": "no float model was measured beside it",
}
REASONS_ONCE_TRANSCRIBED = {
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
        raise UserError(f"report row: unknown field {unknown[0]!r}; must be one of {', '.join(FIELDS)}")
    given = {key: plain(value) for key, value in parts.items()}
    given.setdefault("cpu_vnni", cpu_has_vnni())
    values: dict[str, Any] = {key: given.get(key) for key in FIELDS}
    values["notes"] = list(given.get("notes") or [])
    for key, kind in kinds_of(Row).items():
        if kind.record is not None and isinstance(values[key], dict):
            values[key] = {name: values[key].get(name) for name in kinds_of(kind.record)} | values[key]
    for path in list(null_paths(Row, values)):
        if not reason_for_null(values["notes"], path):
            values["notes"].append(f"{path}: {_default_reason(values, path)}")
    return row_from(values)


def row_from(values: Mapping[str, Any], source: str = "report row") -> Row:
    """The row from its JSON object.

    Raises:
        UserError: the first problem, after `source` and the row's run and split.
    """
    problem = next(row_problems(values), None)
    if problem:
        raise UserError(f"{source}: run {values.get('run')!r}, split {values.get('split')!r}: {problem}")
    return from_builtins(Row, values)


def row_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Every problem of a row's JSON object (fields, types, ranges, consistency), one line each; none if it is valid."""
    yield from field_problems(Row, values)
    if all(key in values for key in REQUIRED) and isinstance(values["notes"], list):
        unexplained = (path for path in null_paths(Row, values) if not reason_for_null(values["notes"], path))
        yield from (f"{path} is null and no note says why" for path in unexplained)
        yield from _inconsistencies(values)


def reason_for_null(notes: Sequence[str], path: str) -> str:
    """Why a field is null, from the row's notes; "" when no note names it.

    >>> reason_for_null(["parity: no integer file"], "parity.wer_fake")
    'no integer file'
    """
    parts = path.split(".")
    for name in (".".join(parts[:count]) for count in range(len(parts), 0, -1)):
        for note in notes:
            if note.startswith(f"{name}:"):
                return note[len(name) + 1 :].strip()
    return ""


def save_report(path: Path, rows: Sequence[Row]) -> None:
    """Check the rows and write them as a JSON list, whole or not at all.

    Raises:
        UserError: a row is not valid.
    """
    stored = [row.to_dict() for row in rows]
    for values in stored:
        row_from(values, str(path))
    write_text(path, json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load_report(path: Path) -> list[Row]:
    """Read and check the rows of a report.

    Raises:
        UserError: the file is missing, is not a JSON list of objects, or holds a row that is not valid.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: no report to read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(stored, list) or not all(isinstance(values, dict) for values in stored):
        raise UserError(f"{path}: a report must be a list of objects")
    return [row_from(values, str(path)) for values in stored]


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


def _default_reason(values: Mapping[str, Any], path: str) -> str:
    if values["precision"] == "float" and path in OF_INTEGER_ROWS:
        return "this row is the float model"
    known = REASONS | REASONS_ONCE_TRANSCRIBED if values["utterances"] is not None else REASONS
    return known.get(path, "not measured")


def _inconsistencies(values: Mapping[str, Any]) -> Iterator[str]:
    counts = [values[key] for key in ("substitutions", "deletions", "insertions", "reference_words", "wer")]
    if all(is_kind(item, (float,)) for item in counts) and counts[3]:
        expected = 100.0 * sum(counts[:3]) / counts[3]
        if abs(expected - counts[4]) > 1e-6 * max(1.0, expected):
            yield f"wer is {counts[4]}, but its error counts give {expected}"
    for key in ("latency_ms", "float_latency_ms"):
        times = values[key]
        if isinstance(times, dict) and None not in times.values() and times["p50"] > times["p95"]:
            yield f"{key}: p50 {times['p50']} is greater than p95 {times['p95']}"
    names = [name for name, _, _ in DURATION_BUCKETS]
    for bucket in values["wer_by_duration"] or {}:
        if bucket not in names:
            yield f"wer_by_duration: unknown bucket {bucket!r}; must be one of {', '.join(names)}"
