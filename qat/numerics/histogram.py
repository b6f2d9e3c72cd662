"""Streaming histograms whose bins align by construction, so that merging them is exact.

The width of a bin is a power of two and zero is the edge between the two middle bins. When a value falls outside,
the width doubles and pairs of bins merge. The histogram of a union is therefore the merge of the histograms, bit
for bit, in any order and over any number of processes; counts are int64 and memory is O(bins).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 4096  # over both signs: 2048 for magnitudes
EMPTY_EXPONENT = -100  # log2 of the smallest bin width: far below any activation
CHUNK = 1 << 16  # values binned at a time: they stay in the cache


@dataclass
class Histogram:
    """Counts of values per bin, with exact extremes; one row a channel.

    Args:
        counts: int64 `(C, bins)`; bin `i` holds values in `[(i - bins/2) w, (i + 1 - bins/2) w)`.
        exponent: int32 `(C,)`, `w = 2^exponent`.
        minimum: float32 `(C,)`, +inf while empty; NaN or inf once a value was.
        maximum: float32 `(C,)`, -inf while empty.
    """

    counts: Tensor
    exponent: Tensor
    minimum: Tensor
    maximum: Tensor

    @classmethod
    def empty(cls, channels: int = 1, bins: int = BINS, device: torch.device | str = "cpu") -> Histogram:
        """A histogram of nothing; with `bins=0` it keeps the extremes only."""
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
            self.merge_(histogram_of(values, *self.counts.shape))

    def widen_(self, exponent: Tensor) -> None:
        """Double the bins of each channel until their width is at least `2^exponent`, in place."""
        target = torch.maximum(self.exponent, exponent)
        shifts = (target - self.exponent).tolist()
        self.exponent.copy_(target)
        for row, shift in enumerate(shifts):
            if shift:
                self.counts[row] = halved(self.counts[row], shift)

    def merge_(self, other: Histogram) -> None:
        """Add the counts of another histogram with as many channels and bins, in place."""
        torch.minimum(self.minimum, other.minimum, out=self.minimum)
        torch.maximum(self.maximum, other.maximum, out=self.maximum)
        if not self.counts.shape[1]:
            return
        self.widen_(other.exponent)
        shifts = (self.exponent - other.exponent).tolist()
        if not any(shifts):
            self.counts += other.counts
            return
        for row, shift in enumerate(shifts):
            self.counts[row] += halved(other.counts[row], shift)

    def clear_(self) -> None:
        """Forget everything, in place."""
        self.counts.zero_()
        self.exponent.fill_(EMPTY_EXPONENT)
        self.minimum.fill_(torch.inf)
        self.maximum.fill_(-torch.inf)


def histogram_of(values: Tensor, channels: int = 1, bins: int = BINS) -> Histogram:
    """Histogram of one tensor, with the narrowest bins that hold it.

    Where a value is not finite only the extremes are kept, which tell of it.

    Args:
        values: any shape for one channel, `(C, N)` for several; any float dtype; not empty.
        channels: `C`.
        bins: a power of two, or 0 for the extremes only.
    """
    rows = in_memory_order(values.detach())[None] if channels == 1 else values.detach().reshape(channels, -1)
    ends = torch.aminmax(rows, dim=1) if channels > 1 else torch.aminmax(rows)
    low, high = (end.view(channels).float() for end in ends)
    histogram = Histogram.empty(channels, bins, values.device)
    histogram.minimum, histogram.maximum = low, high
    largest = torch.maximum(high, -low).tolist()
    if bins and all(math.isfinite(value) for value in largest):
        exponents = [exponent_for(value, bins) for value in largest]
        histogram.exponent = torch.tensor(exponents, dtype=torch.int32).to(values.device)
        histogram.counts = count_bins(rows, exponents, bins)
    return histogram


def in_memory_order(x: Tensor) -> Tensor:
    """All values of `x`, flat, in the order they lie in memory: no copy of a transposed tensor."""
    axes = sorted(range(x.ndim), key=lambda axis: -x.stride(axis))
    return x.permute(axes).reshape(-1)


def exponent_for(magnitude: float, bins: int) -> int:
    """Smallest exponent whose bins hold all values up to `magnitude` (finite, non-negative) on both sides.

    >>> exponent_for(1.0, 4096), exponent_for(0.999, 4096)
    (-10, -11)
    """
    if magnitude == 0.0:
        return EMPTY_EXPONENT
    return max(math.frexp(magnitude)[1] - (bins // 2).bit_length() + 1, EMPTY_EXPONENT)


def halved(counts: Tensor, times: int) -> Tensor:
    """Counts `(bins,)` after merging pairs of bins `times` times: they gather around the middle."""
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
    """Counts int64 `(C, bins)` of finite rows `(C, N)` that fit bins of width `2^exponent`.

    Scaling by a power of two and flooring are exact, so merging two bins later gives what counting into the wider
    bin would have given.
    """
    counts = torch.zeros(len(exponents), bins, dtype=torch.int64, device=rows.device)
    for row, exponent in enumerate(exponents):
        for part in rows[row].split(1 << 24 if rows.is_cuda else CHUNK):
            levels = (part.float() * 2.0**-exponent).floor_().add_(bins // 2)
            counts[row] += torch.bincount(levels.short(), minlength=bins)
    return counts
