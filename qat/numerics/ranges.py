"""From data to scale and zero point: max, MSE, percentile and entropy ranges."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.numerics.histogram import Histogram
from qat.numerics.scales import SCALE_FLOOR

CANDIDATES = 100  # clips tried by the MSE search: 1 % to 100 % of the largest magnitude
BLOCK = 1 << 17  # weights searched at a time, so that they stay in the cache


def symmetric_range(magnitude: Tensor, quant_max: float) -> tuple[Tensor, Tensor]:
    """Scale float32 and zero point int32 (all zero) for values in [-magnitude, magnitude].

    `quant_max` is the largest level; an integer plus a half where levels lie between the whole steps.
    """
    scale = (magnitude.double() / quant_max).float().clamp(min=SCALE_FLOOR)
    return scale, torch.zeros_like(scale, dtype=torch.int32)


def affine_range(low: Tensor, high: Tensor, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    """Scale float32 and zero point int32 for values in [low, high], stretched to hold zero.

    Zero is a level, so that padding and rectified values are exact.

    >>> affine_range(torch.tensor([-1.0]), torch.tensor([1.55]), 0, 255)
    (tensor([0.0100]), tensor([100], dtype=torch.int32))
    """
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    scale = ((high - low) / (quant_max - quant_min)).float().clamp(min=SCALE_FLOOR)
    zero_point = (quant_min - low / scale.double()).round().clamp(quant_min, quant_max)
    return scale, zero_point.to(torch.int32)


def histogram_range(
    histogram: Histogram,
    observer: str,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    percentile: float = 99.99,
) -> tuple[Tensor, Tensor]:
    """Scale float32 `(C,)` and zero point int32 `(C,)` for the values in a histogram.

    Args:
        histogram: of at least one value per channel, all finite.
        observer: `max` covers everything; `mse` clips where the mean squared error over the whole histogram is
            least; `percentile` leaves out `100 - percentile` percent (half of it at each end if asymmetric);
            `entropy` clips magnitudes where the Kullback-Leibler divergence is least.
        quant_min: smallest level.
        quant_max: largest level.
        symmetric: zero point 0 and a range around zero; else any range that holds zero.
        percentile: for that observer, in percent.
    """
    low, high = histogram.minimum.double().clamp(max=0.0), histogram.maximum.double().clamp(min=0.0)
    if symmetric:
        low, high = -torch.maximum(-low, high), torch.maximum(-low, high)
    if observer != "max":
        ends = []
        for row in range(low.numel()):
            counts, centres = histogram.counts[row].double(), histogram.centres[row]
            limits = (low[row], high[row])
            if observer == "mse":
                ends.append(mse_limits(centres, counts, *limits, quant_min, quant_max, symmetric))
            elif observer == "percentile":
                ends.append(percentile_limits(centres, counts, *limits, percentile, symmetric))
            else:
                levels = (
                    quant_max - quant_min + 1 if bool(low[row] == 0) else (quant_max - quant_min + 2) // 2
                )
                clip = entropy_clip(fold_magnitudes(counts), centres[1] - centres[0], levels)
                ends.append((torch.maximum(-clip, limits[0]), torch.minimum(clip, limits[1])))
        low, high = (torch.stack(end) for end in zip(*ends, strict=True))
    if symmetric:
        return symmetric_range(high, quant_max)
    return affine_range(low, high, quant_min, quant_max)


def mse_limits(
    centres: Tensor,
    counts: Tensor,
    low: Tensor,
    high: Tensor,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    """(low, high) with the least mean squared quantization error over a histogram.

    First 100 clips are tried on both ends at once. An asymmetric range then tries 100 upper ends and 100 lower ends
    by themselves, since the two tails differ (GELU has a dense negative tail and a sparse positive one).
    """
    seen = counts > 0
    values, weights = centres[seen], counts[seen]
    share = torch.arange(1, CANDIDATES + 1, device=low.device, dtype=torch.float64) / CANDIDATES
    errors = quantization_errors(values, weights, low * share, high * share, quant_min, quant_max, symmetric)
    best = share[errors.argmin()]
    chosen = (low * best, high * best)
    if symmetric or bool(low == 0) or bool(high == 0):
        return chosen
    for lows, highs in ((chosen[0].expand(CANDIDATES), high * share), (low * share, None)):
        highs = chosen[1].expand(CANDIDATES) if highs is None else highs
        found = quantization_errors(values, weights, lows, highs, quant_min, quant_max, symmetric)
        if found.min() < errors.min():
            errors, index = found, found.argmin()
            chosen = (lows[index], highs[index])
    return chosen


def quantization_errors(
    values: Tensor,
    weights: Tensor,
    low: Tensor,
    high: Tensor,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
) -> Tensor:
    """Weighted sum of squared errors `(K,)` of `values (N,)` under each of K ranges, float64."""
    scale, zero_point = (
        symmetric_range(high, quant_max) if symmetric else affine_range(low, high, quant_min, quant_max)
    )
    step, shift = scale.double()[:, None], zero_point[:, None]
    levels = (values / step).round_().add_(shift).clamp_(quant_min, quant_max).sub_(shift)
    return levels.mul_(step).sub_(values).square_() @ weights


def percentile_limits(
    centres: Tensor, counts: Tensor, low: Tensor, high: Tensor, percentile: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """(low, high) that leave out `100 - percentile` percent of the values, interpolated within a bin."""
    width = centres[1] - centres[0]
    if symmetric:
        clip = histogram_quantile(fold_magnitudes(counts), width * 0, width, percentile / 100).clamp(max=high)
        return -clip, clip
    tail = (1 - percentile / 100) / 2
    first = centres[0] - width / 2
    bottom = histogram_quantile(counts, first, width, tail) if tail else low
    top = histogram_quantile(counts, first, width, 1 - tail) if tail else high
    return torch.maximum(bottom, low).clamp(max=0.0), torch.minimum(top, high).clamp(min=0.0)


def histogram_quantile(counts: Tensor, first: Tensor, width: Tensor, share: float) -> Tensor:
    """Value below which `share` of the counts lies; linear inside a bin. `first` is the lowest edge."""
    cumulative = counts.double().cumsum(0)
    target = share * cumulative[-1]
    index = torch.searchsorted(cumulative, target).clamp(max=counts.numel() - 1)
    inside = (target - (cumulative[index] - counts[index])) / counts[index].clamp(min=1)
    return first + width * (index + inside.clamp(0.0, 1.0))


def fold_magnitudes(counts: Tensor) -> Tensor:
    """Signed counts `(..., bins)` -> counts of magnitudes `(..., bins / 2)`, from zero up."""
    half = counts.shape[-1] // 2
    return counts[..., half:] + counts[..., :half].flip(-1)


MOST_OUTLIERS = 0.5  # share of values that the entropy observer may clip


def entropy_clip(counts: Tensor, width: Tensor, levels: int, candidates: int = 128) -> Tensor:
    """Clip for magnitudes that loses the least information: minimum KL(P || Q) over `candidates` clips.

    P is the histogram up to the clip with all outliers folded into its last bin; Q merges the same bins, without
    the outliers, into `levels` and spreads each level evenly over its occupied bins (TensorRT, "8-bit inference",
    GTC 2017). Levels of non-integer width take whole bins; counts are never truncated.

    Args:
        counts: of magnitudes, float64 `(N,)`, from zero up.
        width: of a bin.
        levels: magnitudes that the quantizer can tell apart: 2^(b-1), or 2^b for non-negative data.
        candidates: number of clips tried at most, evenly spaced; the whole range is always one.
    """
    used = int(counts.nonzero().max()) + 1
    if used <= levels:
        return width * used
    stride = max(1, -(-(used - levels) // candidates))
    clips = torch.arange(used, levels - 1, -stride, device=counts.device)[:, None]
    counts = counts[:used]
    index = torch.arange(used, device=counts.device)[None, :]
    inside = counts * (index < clips)
    outliers = counts.sum() - inside.sum(1)
    p = inside.scatter_add(1, clips - 1, outliers[:, None])
    occupied = (p > 0).double()
    group = (index * levels // clips).clamp(max=levels)
    empty = p.new_zeros(len(clips), levels + 1)
    mean = empty.scatter_add(1, group, inside) / empty.scatter_add(1, group, occupied).clamp(min=1.0)
    q = mean.gather(1, group) * occupied
    p, q = p / p.sum(1, keepdim=True), (q / q.sum(1, keepdim=True)).clamp(min=1e-12)
    divergence = torch.where(p > 0, p * (p / q).log(), 0.0).sum(1)
    # If nearly all mass lies outside, P and Q are the same single spike: zero divergence, but a useless clip.
    divergence = divergence.masked_fill(outliers > MOST_OUTLIERS * counts.sum(), torch.inf)
    return width * clips[divergence.argmin(), 0]


def weight_magnitude(
    weight: Tensor, observer: str, quant_max: int, percentile: float = 99.99, offset: float = 0.0
) -> Tensor:
    """Largest magnitude that each row of a weight keeps, float32 `(C,)`.

    Args:
        weight: `(C, N)`, finite.
        observer: `max`; `mse` (100 clips per row, exact); `percentile` of magnitudes, interpolated; `entropy`
            (one share of the maximum for all rows, from the pooled histogram of rows over their maxima, since a
            row alone is too few values for a distribution).
        quant_max: largest level.
        percentile: for that observer, in percent.
        offset: steps that all levels lie above the whole ones; 0 or a half.
    """
    weight = weight.detach().float()
    largest = weight.abs().amax(1)
    if observer == "mse":
        errors = sum_errors(weight, largest, quant_max, offset)
        return largest * (errors.argmin(1) + 1) / CANDIDATES
    if observer == "percentile":
        ordered = weight.abs().sort(1).values
        place = percentile / 100 * (weight.shape[1] - 1)
        below = int(place)
        above = min(below + 1, weight.shape[1] - 1)
        return torch.lerp(ordered[:, below], ordered[:, above], place - below)
    if observer == "entropy":
        histogram = Histogram.empty(device=weight.device)
        histogram.update_(weight / largest.clamp(min=SCALE_FLOOR)[:, None])
        counts = fold_magnitudes(histogram.counts[0]).double()
        clip = entropy_clip(counts, histogram.centres[0, 1] - histogram.centres[0, 0], quant_max + 1)
        return largest * clip.float().clamp(max=1.0)
    return largest


def sum_errors(weight: Tensor, largest: Tensor, quant_max: int, offset: float = 0.0) -> Tensor:
    """Sum of squared errors `(C, 100)` of each row `(C, N)` under clips of 1 % to 100 % of its `largest`."""
    top = quant_max + offset
    errors = weight.new_zeros(weight.shape[0], CANDIDATES)
    columns = weight.shape[1] if weight.shape[1] <= BLOCK else BLOCK
    rows = max(1, BLOCK // columns)
    for start in range(0, weight.shape[0], rows):
        for part in weight[start : start + rows].split(columns, dim=1):
            scratch = torch.empty_like(part)
            for index in range(CANDIDATES):
                step = (largest[start : start + rows, None] * ((index + 1) / CANDIDATES / top)).clamp(
                    min=SCALE_FLOOR
                )
                torch.div(part, step, out=scratch)
                if offset:
                    scratch.sub_(offset).round_().add_(offset)
                else:
                    scratch.round_()
                scratch.clamp_(-top, top).mul_(step).sub_(part)
                errors[start : start + rows, index] += scratch.square_().sum(1)
    return errors
