"""Streaming histograms whose bins align by construction, so that merging them is exact.

The width of a bin is a power of two and zero is the edge between the two middle bins. When a value falls outside,
the width doubles and pairs of bins merge. The histogram of a union is therefore the merge of the histograms, bit
for bit, in any order and over any number of processes; counts are int64 and memory is O(bins).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qat.numerics.kernel import memory_axes

BINS = 4096  # over both signs: 2048 for magnitudes
EMPTY_EXPONENT = -100  # log2 of the smallest bin width: far below any activation
CHUNK = 1 << 16  # values binned at a time, so that they stay in the cache


@dataclass
class Histogram:
    """Counts of values per bin, with exact extremes; one row per channel.

    Args:
        counts: int64 `(C, bins)`; bin `i` holds values in `[(i - bins/2) w, (i + 1 - bins/2) w)`.
        exponent: int32 `(C,)`, `w = 2^exponent`.
        minimum: float32 `(C,)`, +inf while empty; NaN or inf if a value was.
        maximum: float32 `(C,)`, -inf while empty.
    """

    counts: Tensor
    exponent: Tensor
    minimum: Tensor
    maximum: Tensor

    @classmethod
    def empty(cls, channels: int = 1, bins: int = BINS, device: torch.device | str = "cpu") -> Histogram:
        """An empty histogram; with `bins=0` it keeps the extremes only."""
        return cls(
            torch.zeros(channels, bins, dtype=torch.int64, device=device),
            torch.full((channels,), EMPTY_EXPONENT, dtype=torch.int32, device=device),
            torch.full((channels,), torch.inf, device=device),
            torch.full((channels,), -torch.inf, device=device),
        )

    @property
    def centres(self) -> Tensor:
        """Middle of each bin, float64 `(C, bins)`."""
        bins = self.counts.shape[1]
        index = torch.arange(bins, device=self.counts.device, dtype=torch.float64) - (bins // 2 - 0.5)
        return index[None, :] * power_of_two(self.exponent)[:, None].double()

    def update_(self, values: Tensor) -> None:
        """Add values, in place.

        Args:
            values: any shape for one channel, `(C, N)` for several; any float dtype.
        """
        if values.numel():
            mine = self.exponent.tolist()
            self.add_(measure(values, self.counts.shape[0], self.counts.shape[1], mine), mine)

    def add_(self, part: Measured, mine: list[int]) -> None:
        """Add the result of `measure`, in place.

        Args:
            part: with bins at least as wide as these.
            mine: the exponents of this histogram.
        """
        torch.minimum(self.minimum, part.low, out=self.minimum)
        torch.maximum(self.maximum, part.high, out=self.maximum)
        if part.counts is not None:
            if part.exponents != mine:
                self.widen_(part.exponents)
            self.counts.add_(part.counts, alpha=part.repeat)

    def widen_(self, exponents: list[int]) -> None:
        """Double the bins of each channel until their width is at least `2^exponent`, in place."""
        for row, (old, new) in enumerate(zip(self.exponent.tolist(), exponents, strict=True)):
            if new > old:
                self.counts[row] = halved(self.counts[row], new - old)
                self.exponent[row] = new

    def merge_(self, other: Histogram) -> None:
        """Add the counts of another histogram with as many channels and bins, in place."""
        self.widen_(other.exponent.tolist())
        exponents = self.exponent.tolist()
        widened = Histogram(other.counts.clone(), other.exponent.clone(), other.minimum, other.maximum)
        widened.widen_(exponents)
        self.add_(Measured(other.minimum, other.maximum, exponents, exponents, widened.counts), exponents)

    def raised(self, floor: float) -> Histogram:
        """A new histogram of the same values after `clamp(min=floor)`.

        Args:
            floor: finite.
        """
        counts, bins = self.counts.clone(), self.counts.shape[1]
        if bins:
            for row, exponent in zip(counts, self.exponent.tolist(), strict=True):
                lowest = min(max(math.floor(math.ldexp(floor, -exponent)) + bins // 2, 0), bins - 1)
                row[lowest] += row[:lowest].sum()
                row[:lowest] = 0
        low, high = self.minimum.clamp(min=floor), self.maximum.clamp(min=floor)
        return Histogram(counts, self.exponent.clone(), low, high)

    def clear_(self) -> None:
        """Forget everything, in place."""
        self.counts.zero_()
        self.exponent.fill_(EMPTY_EXPONENT)
        self.minimum.fill_(torch.inf)
        self.maximum.fill_(-torch.inf)


@dataclass(frozen=True)
class Measured:
    """What some values add to a histogram.

    Args:
        low: smallest value, float32 `(C,)` or a scalar.
        high: largest.
        needed: exponents of the narrowest bins that hold the values.
        exponents: of `counts`.
        counts: int64 `(C, bins)`; None where only the extremes are wanted, or a value is not finite.
        repeat: factor on every count.
    """

    low: Tensor
    high: Tensor
    needed: list[int]
    exponents: list[int]
    counts: Tensor | None
    repeat: int = 1


def measure(
    values: Tensor, channels: int, bins: int, at_least: list[int], limit: int | None = None
) -> Measured:
    """Extremes and counts of one tensor.

    Args:
        values: any shape for one channel, `(C, N)` for several; any float dtype; not empty.
        channels: `C`.
        bins: a power of two, or 0 for the extremes only.
        at_least: smallest exponents to count at.
        limit: if one channel has more values than this, every k-th is counted k times; None counts all. The
            extremes are exact either way.
    """
    values = values.detach()
    rows = values.reshape(channels, -1) if channels > 1 else in_memory_order(values)
    low, high = torch.aminmax(rows, dim=1) if channels > 1 else torch.aminmax(rows)
    if low.dtype != torch.float32:
        low, high = low.float(), high.float()
    if not bins:
        return Measured(low, high, at_least, at_least, None)
    lows, highs = ([low.item()], [high.item()]) if channels == 1 else (low.tolist(), high.tolist())
    if not all(map(math.isfinite, lows + highs)):
        return Measured(low, high, at_least, at_least, None)
    needed = [exponent_for(max(-first, last), bins) for first, last in zip(lows, highs, strict=True)]
    exponents = list(map(max, needed, at_least))
    stride = thinning(values.shape, limit) if limit and channels == 1 else 1
    counts = count_bins(rows if stride == 1 else rows[::stride], exponents, bins)
    return Measured(low, high, needed, exponents, counts, stride)


@lru_cache
def thinning(shape: torch.Size, limit: int) -> int:
    """Smallest stride that leaves at most `limit` values and is coprime to every dimension.

    A common factor with a dimension would visit some channels or frames only.

    >>> thinning(torch.Size((8, 50)), 100)
    7
    """
    stride = -(-shape.numel() // limit)
    while stride > 1 and any(math.gcd(stride, size) > 1 for size in shape):
        stride += 1
    return stride


def in_memory_order(x: Tensor) -> Tensor:
    """All values of `x`, flat, in the order they lie in memory: no copy of a transposed tensor."""
    return x.permute(memory_axes(x)).reshape(-1)


def exponent_for(magnitude: float, bins: int) -> int:
    """Smallest exponent whose bins hold all values up to `magnitude` (finite, non-negative) on both sides.

    >>> exponent_for(1.0, 4096), exponent_for(0.999, 4096)
    (-10, -11)
    """
    if magnitude == 0.0:
        return EMPTY_EXPONENT
    return max(math.frexp(magnitude)[1] - (bins // 2).bit_length() + 1, EMPTY_EXPONENT)


def halved(counts: Tensor, times: int) -> Tensor:
    """Counts `(bins,)` after merging pairs of bins `times` times, around the middle."""
    half = counts.numel() // 2
    block = min(1 << times, half)
    merged = torch.zeros_like(counts)
    merged[half - half // block : half + half // block] = counts.view(-1, block).sum(1)
    return merged


def power_of_two(exponent: Tensor) -> Tensor:
    """Exact `2^exponent` as float32, for exponents in [-126, 127].

    >>> power_of_two(torch.tensor([-1, 3])).tolist()
    [0.5, 8.0]
    """
    return torch.bitwise_left_shift(exponent.int() + 127, 23).view(torch.float32)


def count_bins(rows: Tensor, exponents: list[int], bins: int) -> Tensor:
    """Counts int64 `(C, bins)` of finite rows `(C, N)`, or `(N,)` of one channel, in bins of width `2^exponent`.

    Scaling by a power of two and flooring are exact, so merging two bins later gives what counting into the wider
    bin would have given.
    """
    if len(exponents) == 1:
        row = rows if rows.ndim == 1 else rows[0]
        return count_row(row, 2.0 ** -exponents[0], bins)[None]
    return torch.stack(
        [count_row(row, 2.0**-exponent, bins) for row, exponent in zip(rows, exponents, strict=True)]
    )


def count_row(row: Tensor, factor: float, bins: int) -> Tensor:
    """Counts int64 `(bins,)` of values `(N,)` in bins of width `1 / factor`."""
    if row.numel() <= CHUNK or row.is_cuda:
        levels = (row.float() * factor).floor_().add_(bins // 2)
        return torch.bincount(levels.short(), minlength=bins)
    return torch.stack([count_row(part, factor, bins) for part in row.split(CHUNK)]).sum(0)
