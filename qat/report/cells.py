"""Fields of a row as the cells of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat.report.row import OF_INTEGER_ROWS, Row, reason_for_null

NOT_APPLICABLE = "-"
VARIANT = "compared for the run's own model"  # why a variant has no parity
SMALLEST_P = 0.001  # below it, only that it is smaller


def value_at(row: Row, path: str) -> Any:
    """The field that a dotted path names; None where it or what holds it is null."""
    value: Any = row
    for name in path.split("."):
        value = getattr(value, name)
        if value is None:
            return None
    return value


def applies(row: Row, path: str) -> bool:
    """Whether a field may have a value in this row: a float file has no speedup over itself."""
    return row.precision != "float" or path.partition(".")[0] not in OF_INTEGER_ROWS


def number(row: Row, path: str, form: str = "{:.2f}") -> str:
    """A field as text; "-" where it does not apply, "n/a (reason)" where it was not measured."""
    value = value_at(row, path)
    if value is None:
        if not applies(row, path):
            return NOT_APPLICABLE
        return f"n/a ({reason_for_null(row.notes, path) or 'no reason given'})"
    return form.format(*value) if isinstance(value, tuple) else form.format(value)


def with_interval(row: Row, point: str, interval: str, form: str) -> str:
    """ "3.42 [3.10, 3.75]"; the interval's reason stands inside the brackets when only it is null."""
    value = number(row, point, form)
    if value_at(row, point) is None:
        return value
    low_high = number(row, interval, f"[{form}, {form}]")
    return f"{value} {low_high}" if low_high.startswith("[") else f"{value} [{low_high}]"


def p_number(p: float) -> str:
    """A p value for a column of its own.

    >>> p_number(0.0412), p_number(0.0002)
    ('0.041', '< 0.001')
    """
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def p_text(p: float) -> str:
    """A p value inside a sentence or a pair of brackets.

    >>> p_text(0.0412), p_text(0.0002)
    ('p = 0.041', 'p < 0.001')
    """
    return f"p {p_number(p)}" if p < SMALLEST_P else f"p = {p_number(p)}"


def bits(row: Row) -> str:
    """ "W4 A8", "W2/4 (mean 2.04) A4/8 (mean 4.06)"; float weights or activations say so."""
    weight, activation = row.weight_bits, row.activation_bits
    if weight is None and activation is None:
        return "float"
    shares = row.coverage
    weights = width(weight, shares.mean_weight_bits if shares else None)
    return f"W{weights} A{width(activation, shares.mean_activation_bits if shares else None)}"


def width(bits: int | str | None, mean: float | None) -> str:
    """ "4", "2/4 (mean 2.04)"; "float" without bits."""
    return f"{bits or 'float'}{f' (mean {mean:.2f})' if mean and '/' in str(bits) else ''}"


def percentiles(row: Row, path: str) -> str:
    """ "12.1 / 14.0" milliseconds."""
    if value_at(row, path) is None:
        return number(row, path)
    return f"{number(row, f'{path}.p50', '{:.1f}')} / {number(row, f'{path}.p95', '{:.1f}')}"


def p50(row: Row) -> float | None:
    """The row's median latency in milliseconds."""
    return None if row.latency_ms is None else row.latency_ms.p50


def share(row: Row, path: str) -> str:
    """A share in [0, 1] as percent."""
    return number(row, path, "{:.1%}").replace("%", " %")


def errors(row: Row) -> str:
    """Substitutions, deletions and insertions."""
    kinds = ("substitutions", "deletions", "insertions")
    missing = [key for key in kinds if value_at(row, key) is None]
    return number(row, missing[0]) if missing else " / ".join(str(value_at(row, key)) for key in kinds)


def p_cell(row: Row) -> str:
    """The p value of the difference to float."""
    path = "delta_wer_vs_float.p_value"
    value = value_at(row, path)
    return number(row, path) if value is None else p_number(value)


def short(field: str, cell: Callable[[Row], str]) -> Callable[[Row], str]:
    """The cell of a narrow table: "n/a" alone where the field was not measured, "-" where it does not apply."""

    def narrow(row: Row) -> str:
        if value_at(row, field) is None:
            return "n/a" if applies(row, field) else NOT_APPLICABLE
        return cell(row)

    return narrow


def short_difference(row: Row) -> str:
    """ "+0.31 (p = 0.041)"."""
    mean = number(row, "delta_wer_vs_float.mean", "{:+.2f}")
    p = value_at(row, "delta_wer_vs_float.p_value")
    return f"{mean} ({p_text(p)})" if p is not None else mean


def bucket_cell(name: str) -> Callable[[Row], str]:
    """Column of one duration bucket: "4.1 (S 3, D 9, I 1; n 40)"."""

    def cell(row: Row) -> str:
        if row.wer_by_duration is None:
            return number(row, "wer_by_duration")
        found = row.wer_by_duration.get(name)
        if found is None:
            return "none"
        kinds = ", ".join(
            f"{key[0].upper()} {found[key]}" for key in ("substitutions", "deletions", "insertions")
        )
        return f"{found['wer']:.2f} ({kinds}; n {found['utterances']})"

    return cell
