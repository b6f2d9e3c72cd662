"""Ranges are what a direct computation finds; zero is always a level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.numerics.affine import fake_quantize
from qat.numerics.histogram import Histogram
from qat.numerics.ranges import (
    affine_range,
    entropy_clip,
    histogram_range,
    percentile_limits,
    symmetric_range,
    weight_magnitude,
)
from tests.numerics.histograms import histogram_of, normal

OBSERVERS = ["max", "mse", "percentile", "entropy"]


def test_max_is_exact() -> None:
    x = normal(5000) + 0.3
    scale, zero = histogram_range(histogram_of(x, bins=0), "max", -127, 127, True)
    assert torch.equal(scale, (x.abs().max().double() / 127).float().view(1)) and int(zero) == 0
    scale, zero = histogram_range(histogram_of(x, bins=0), "max", 0, 255, False)
    span = (x.max().double() - x.min().double()) / 255
    assert torch.equal(scale, span.float().view(1))
    assert int(zero) == round(-float(x.min()) / float(scale))


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
def test_percentile_equals_numpy_within_a_bin(percentile: float) -> None:
    x = normal(50_000)
    histogram = histogram_of(x)
    width = 2.0 ** int(histogram.exponent)
    scale, _ = histogram_range(histogram, "percentile", -127, 127, True, percentile)
    spacing = (
        4e-3 if percentile > 99 else 5e-4
    )  # numpy interpolates between neighbours, which lie apart there
    expected = np.percentile(x.abs().numpy(), percentile)
    assert abs(float(scale) * 127 - expected) <= width + (spacing if percentile < 100 else 1e-6)
    low, high = histogram.minimum[0].double(), histogram.maximum[0].double()
    ends = percentile_limits(histogram.centres[0], histogram.counts[0].double(), low, high, percentile, False)
    tail = (100 - percentile) / 2
    for end, share in zip(ends, (tail, 100 - tail), strict=True):
        assert abs(float(end) - np.percentile(x.numpy(), share)) <= width + 2e-2 * (percentile > 99) + 1e-3


def squared_error(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, low: int, high: int) -> float:
    out = fake_quantize(x, scale, zero, low, high)
    return float((out.double() - x.double()).square().sum())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", ["normal", "laplace", "outlier"])
def test_mse_is_as_good_as_brute_force_over_the_candidates(bits: int, shape: str) -> None:
    x = normal(8000)
    if shape == "laplace":
        x = x * normal(8000, seed=1).abs() * 2
    if shape == "outlier":
        x[17] = 30.0
    histogram, shares = histogram_of(x), torch.arange(1, 101, dtype=torch.float64) / 100
    top = 2 ** (bits - 1) - 1
    tried = [symmetric_range((x.abs().max() * share).view(1), top) for share in shares]
    best = min(squared_error(x, *item, -top, top) for item in tried)
    assert squared_error(x, *histogram_range(histogram, "mse", -top, top, True), -top, top) <= 1.01 * best
    top = 2**bits - 1
    tried = [affine_range((x.min() * share).view(1), (x.max() * share).view(1), 0, top) for share in shares]
    best = min(squared_error(x, *item, 0, top) for item in tried)
    assert squared_error(x, *histogram_range(histogram, "mse", 0, top, False), 0, top) <= 1.01 * best


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_of_weights_equals_brute_force_per_row(bits: int) -> None:
    weight, top = normal(6, 300), 2 ** (bits - 1) - 1
    weight[2, 5] = 12.0
    chosen = weight_magnitude(weight, "mse", top)
    for row, magnitude in zip(weight, chosen, strict=True):
        tried = [row.abs().max() * share / 100 for share in range(1, 101)]
        errors = [squared_error(row, *symmetric_range(item.view(1), top), -top, top) for item in tried]
        ours = squared_error(row, *symmetric_range(magnitude.view(1), top), -top, top)
        assert ours <= min(errors) * (1 + 1e-4)
        assert min(abs(float(magnitude - item)) for item in tried) < 1e-5


def direct_entropy_clip(counts: np.ndarray, levels: int) -> tuple[int, dict[int, float]]:
    """Bins kept by the smallest KL divergence, tried one by one; the larger clip wins a tie."""
    used = int(np.flatnonzero(counts).max()) + 1
    divergences = {}
    for kept in range(used, levels - 1, -1):
        p = counts[:kept].astype(np.float64).copy()
        inside = p.copy()
        p[-1] += counts[kept:].sum()
        occupied = p > 0
        q = np.zeros(kept)
        group = np.arange(kept) * levels // kept
        for level in range(levels):
            mine = (group == level) & occupied
            if mine.any():
                q[mine] = inside[group == level].sum() / mine.sum()
        p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-12)
        divergences[kept] = float((p[occupied] * np.log(p[occupied] / q[occupied])).sum())
    return min(divergences, key=lambda kept: divergences[kept]), divergences


@pytest.mark.parametrize("levels", [2, 8, 16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_entropy_equals_a_direct_divergence(levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    magnitudes = np.abs(rng.standard_normal(4000)) * (rng.random(4000) + 0.2)
    counts = np.histogram(magnitudes, 90, (0, 5))[0]
    kept, divergences = direct_entropy_clip(counts, levels)
    width = torch.tensor(0.25, dtype=torch.float64)
    ours = entropy_clip(torch.tensor(counts, dtype=torch.float64), width, levels)
    found = round(float(ours) / 0.25)
    assert found == kept or divergences[found] == pytest.approx(divergences[kept], abs=1e-12)


@pytest.mark.parametrize("observer", ["mse", "percentile", "entropy"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_lone_outlier_is_clipped(observer: str, symmetric: bool) -> None:
    x = normal(50_000)
    x[3] = 40.0
    ends = (-7, 7) if symmetric else (0, 15)
    widest = histogram_range(histogram_of(x), "max", *ends, symmetric)[0]
    assert float(histogram_range(histogram_of(x), observer, *ends, symmetric, 99.99)[0]) < 0.2 * float(widest)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_channels_together_equal_each_alone(observer: str, symmetric: bool) -> None:
    x = normal(4, 3000) * torch.tensor([[1e-3], [1.0], [7.0], [300.0]])
    ends = (-127, 127) if symmetric else (0, 255)
    together = histogram_of(x, channels=4)
    scale, zero = histogram_range(together, observer, *ends, symmetric)
    for row in range(4):
        alone = histogram_of(x[row])
        assert torch.equal(alone.counts[0], together.counts[row])
        expected = histogram_range(alone, observer, *ends, symmetric)
        assert torch.equal(scale[row : row + 1], expected[0]) and torch.equal(
            zero[row : row + 1], expected[1]
        )


@pytest.mark.parametrize("observer", ["max", "mse", "percentile"])
def test_weight_rows_together_equal_each_alone(observer: str) -> None:
    weight = normal(5, 200)
    alone = torch.cat([weight_magnitude(row[None], observer, 7) for row in weight])
    assert torch.equal(weight_magnitude(weight, observer, 7), alone)


def test_percentile_of_weights_equals_numpy() -> None:
    weight = normal(5, 200)
    expected = np.percentile(weight.abs().numpy(), 97.3, axis=1)
    np.testing.assert_allclose(weight_magnitude(weight, "percentile", 7, 97.3).numpy(), expected, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(ends=st.tuples(*[st.floats(-1e5, 1e5, width=32)] * 2), bits=st.integers(2, 8))
def test_zero_is_always_a_level(ends: tuple[float, float], bits: int) -> None:
    low, high = (torch.tensor([end]) for end in sorted(ends))
    scale, zero = affine_range(low, high, 0, 2**bits - 1)
    assert 0 <= int(zero) <= 2**bits - 1 and 0 < float(scale) < torch.inf
    assert float(fake_quantize(torch.zeros(1), scale, zero, 0, 2**bits - 1)) == 0


@pytest.mark.parametrize("observer", ["max", "mse", "percentile"])
@pytest.mark.parametrize("offset", [5.0, -5.0])
def test_zero_is_a_level_of_data_far_from_it(observer: str, offset: float) -> None:
    x = normal(2000) * 0.1 + offset
    scale, zero = histogram_range(histogram_of(x), observer, 0, 255, False)
    assert float(fake_quantize(torch.zeros(1), scale, zero, 0, 255)) == 0
    assert float((fake_quantize(x, scale, zero, 0, 255) - x).abs().mean()) < 0.1


@pytest.mark.parametrize("observer", OBSERVERS)
def test_nothing_but_zeros_gives_a_finite_positive_scale(observer: str) -> None:
    for symmetric, ends in ((True, (-127, 127)), (False, (0, 255))):
        scale, zero = histogram_range(histogram_of(torch.zeros(100)), observer, *ends, symmetric)
        assert 0 < float(scale) < torch.inf and ends[0] <= int(zero) <= ends[1]
        assert float(fake_quantize(torch.zeros(1), scale, zero, *ends)) == 0
    weight = torch.cat([torch.zeros(1, 50), normal(1, 50)])
    scale, _ = symmetric_range(weight_magnitude(weight, observer, 127), 127)
    assert bool(torch.isfinite(scale).all()) and bool((scale > 0).all())
    assert bool((fake_quantize(weight, scale, None, -127, 127, 0)[0] == 0).all())


@pytest.mark.parametrize(
    ("mean", "deviation", "quant_max"), [(2.0, 0.5, 15), (5.0, 0.1, 255), (1.0, 0.1, 15)]
)
def test_entropy_does_not_clip_data_far_from_zero(mean: float, deviation: float, quant_max: int) -> None:
    x = mean + deviation * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    histogram = Histogram.empty()
    histogram.update_(x)
    scale, zero_point = histogram_range(histogram, "entropy", 0, quant_max, False)
    top = float((scale * (quant_max - zero_point)).squeeze())
    assert (x > top).float().mean() < 0.1
