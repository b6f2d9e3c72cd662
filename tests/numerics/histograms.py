"""Seeded values and histograms for the tests of histograms and ranges."""

from __future__ import annotations

import torch

from qat.numerics.histogram import BINS, Histogram


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def histogram_of(*parts: torch.Tensor, channels: int = 1, bins: int = BINS) -> Histogram:
    """A histogram after one update per part."""
    histogram = Histogram.empty(channels, bins)
    for part in parts:
        histogram.update_(part)
    return histogram
