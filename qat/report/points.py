"""Points of the pictures that compare methods: bits, error rate, size and latency of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qat.report.cells import bits, p50
from qat.report.row import Bits, Row

NEAR = 0.1  # bits


@dataclass(frozen=True)
class Point:
    """One model in a picture.

    Attributes:
        label: "W4 A8".
        weight_bits: a number, "4/8" where rules mix widths, None for float; where the mean of mixed widths is a whole
            number but for `NEAR`, that number.
        activation_bits: likewise.
        wer: percent.
        interval: 95 %, percent.
        size_mb: of the exported file; None where it was not measured.
        latency_ms: p50; None where it was not measured.
    """

    label: str
    weight_bits: Bits
    activation_bits: Bits
    wer: float
    interval: tuple[float, float]
    size_mb: float | None
    latency_ms: float | None


Points = Mapping[str, Sequence[Point]]  # method -> its models


def point_of(row: Row, wer: float, interval: tuple[float, float] | None) -> Point:
    """The point of a row, with its error rate on one split or over several seeds."""
    shares = row.coverage
    return Point(
        label=bits(row),
        weight_bits=whole_bits(row.weight_bits, shares.mean_weight_bits if shares else None),
        activation_bits=whole_bits(row.activation_bits, shares.mean_activation_bits if shares else None),
        wer=wer,
        interval=interval or (wer, wer),
        size_mb=row.size_mb,
        latency_ms=p50(row),
    )


def whole_bits(width: Bits, mean: float | None) -> Bits:
    """See `Point.weight_bits`."""
    if mean is None or "/" not in str(width) or abs(mean - round(mean)) > NEAR:
        return width
    return round(mean)


def bits_value(width: Bits) -> float:
    """Bits as a number to order by: the mean where rules mix widths, 32 for float.

    >>> bits_value(4), bits_value("4/8"), bits_value(None)
    (4.0, 6.0, 32.0)
    """
    if width is None:
        return 32.0
    parts = [int(part) for part in str(width).split("/")]
    return sum(parts) / len(parts)
