"""Scales that even out the ranges of channels between two layers: powers of two, which change no bit of the result."""

from __future__ import annotations

import torch
from torch import Tensor


def equalizing_scale(first: Tensor, second: Tensor, alpha: float = 0.5) -> Tensor:
    """What each channel is divided by where it is produced, and multiplied by where it is read.

    `s = first^alpha / second^(1 - alpha)`: cross-layer equalization at 0.5 with the ranges of both layers' weights
    (Nagel 2019, arXiv 1906.04721, equation 11), SmoothQuant with those of activations and weights (Xiao 2022, arXiv
    2211.10438, equation 4). Over its median, as a factor common to all channels changes no rounding, and rounded to a
    power of two: products of floats then stay the same bit for bit, and ranges are even within a factor of two.

    Args:
        first: range of each channel `(C,)`, not negative.
        second: range of the weights that read it `(C,)`.
        alpha: share of the first range that is taken away, in [0, 1].

    Returns:
        Float32 `(C,)`; 1 where a range is zero.

    >>> equalizing_scale(torch.tensor([1.0, 1.0, 100.0, 0.0]), torch.tensor([1.0, 1.0, 0.01, 1.0]))
    tensor([  1.,   1., 128.,   1.])
    """
    first, second = first.detach().double(), second.detach().double()
    live = (first > 0) & (second > 0)
    exponent = torch.zeros_like(first)
    if bool(live.any()):
        wanted = alpha * first[live].log2() - (1 - alpha) * second[live].log2()
        exponent[live] = (wanted - wanted.median()).round()
    return torch.exp2(exponent).float()


def spread(ranges: Tensor) -> float:
    """Largest range of a channel over the median one, of those that are not zero; 1 where all are even.

    >>> spread(torch.tensor([0.0, 2.0, 2.0, 8.0]))
    4.0
    """
    live = ranges[ranges > 0]
    return float(live.max() / live.median()) if len(live) else 1.0
