"""Streaming histograms whose bins align by construction, so that merging them is exact.

The width of a bin is a power of two and zero is the edge between the two middle bins. When a value falls outside,
the width doubles and pairs of bins merge. The histogram of a union is therefore the merge of the histograms, bit
for bit, in any order and over any number of processes; counts are int64 and memory is O(bins).
"""

from __future__ import annotations

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
        channels = self.counts.shape[0]
        rows = values.detach().reshape(channels, -1)
        if rows.numel() == 0:
            return
        low, high = torch.aminmax(rows, dim=1) if channels > 1 else (x.view(1) for x in torch.aminmax(rows))
        torch.minimum(self.minimum, low.float(), out=self.minimum)
        torch.maximum(self.maximum, high.float(), out=self.maximum)
        if self.counts.shape[1] and bool(torch.isfinite(high - low).all()):  # the extremes tell of the others
            self.widen_(exponent_for(torch.maximum(low.abs(), high.abs()), self.counts.shape[1]))
            self.counts += count_bins(rows, self.exponent, self.counts.shape[1])

    def widen_(self, exponent: Tensor) -> None:
        """Double the bins of each channel until their width is at least `2^exponent`, in place."""
        target = torch.maximum(self.exponent, exponent)
        shift = target - self.exponent
        self.exponent.copy_(target)
        if not shift.is_cuda and not bool(shift.any()):
            return
        half = self.counts.shape[1] // 2
        index = torch.arange(-half, half, device=shift.device)[None, :].expand_as(self.counts)
        moved = torch.bitwise_right_shift(index, shift.clamp(max=40).long()[:, None]) + half
        self.counts.copy_(torch.zeros_like(self.counts).scatter_add_(1, moved, self.counts))

    def merge_(self, other: Histogram) -> None:
        """Add the counts of another histogram with as many channels and bins, in place."""
        torch.minimum(self.minimum, other.minimum, out=self.minimum)
        torch.maximum(self.maximum, other.maximum, out=self.maximum)
        if self.counts.shape[1]:
            other = Histogram(other.counts.clone(), other.exponent.clone(), other.minimum, other.maximum)
            self.widen_(other.exponent)
            other.widen_(self.exponent)
            self.counts += other.counts

    def clear_(self) -> None:
        """Forget everything, in place."""
        self.counts.zero_()
        self.exponent.fill_(EMPTY_EXPONENT)
        self.minimum.fill_(torch.inf)
        self.maximum.fill_(-torch.inf)


def exponent_for(magnitude: Tensor, bins: int) -> Tensor:
    """Smallest exponent (int32) whose bins hold values below and at `magnitude` (non-negative) on both sides."""
    exponent = torch.frexp(magnitude.float()).exponent - (bins // 2).bit_length() + 1
    usable = torch.isfinite(magnitude) & (magnitude > 0)
    return torch.where(usable, exponent, EMPTY_EXPONENT).clamp(min=EMPTY_EXPONENT).to(torch.int32)


def power_of_two(exponent: Tensor) -> Tensor:
    """Exact `2^exponent` as float32, for exponents in [-126, 127].

    >>> power_of_two(torch.tensor([-1, 3])).tolist()
    [0.5, 8.0]
    """
    return torch.bitwise_left_shift(exponent.int() + 127, 23).view(torch.float32)


def count_bins(rows: Tensor, exponent: Tensor, bins: int) -> Tensor:
    """Counts int64 `(C, bins)` of finite rows `(C, N)` that fit bins of width `2^exponent`.

    Scaling by a power of two and flooring are exact, so merging two bins later gives what counting into the wider
    bin would have given.
    """
    channels = rows.shape[0]
    factor = power_of_two(-exponent)
    if channels == 1:
        counts = torch.zeros(bins, dtype=torch.int64, device=rows.device)
        for part in rows.view(-1).split(1 << 24 if rows.is_cuda else CHUNK):
            levels = (part.float() * factor).floor_().add_(bins // 2)
            counts += torch.bincount(levels.short(), minlength=bins)
        return counts[None]
    levels = (rows.float() * factor[:, None]).floor_().add_(bins // 2)
    index = levels.long().add_(torch.arange(channels, device=rows.device)[:, None] * bins)
    return torch.bincount(index.view(-1), minlength=channels * bins).view(channels, bins)
