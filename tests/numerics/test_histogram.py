"""Histograms merge exactly, count as numpy does, and leave out what is masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.layers.masking import valid_lengths, valid_values
from qat.numerics.histogram import Histogram
from tests.numerics.histograms import histogram_of, normal


def assert_same(a: Histogram, b: Histogram) -> None:
    assert a.counts.dtype == torch.int64 and a.exponent.dtype == torch.int32
    for name in ("counts", "exponent", "minimum", "maximum"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("factor", [1.0, 1e-6, 1.9, 3e5])
def test_merge_of_two_halves_equals_a_single_pass_bit_for_bit(factor: float) -> None:
    x, y = normal(30_000), normal(20_011, seed=1) * factor
    whole = histogram_of(torch.cat([x, y]))
    merged = histogram_of(x)
    merged.merge_(histogram_of(y))
    assert_same(merged, whole)
    backwards = histogram_of(y)
    backwards.merge_(histogram_of(x))
    assert_same(backwards, whole)
    assert_same(histogram_of(x, y), whole)
    assert int(whole.counts.sum()) == 50_011


@pytest.mark.parametrize("floor", [-3.0, -0.7109375, 0.0, 2.0, 5.0, -900.0])
@pytest.mark.parametrize("factor", [1.0, 90.0])
def test_a_raised_histogram_is_that_of_the_raised_values(floor: float, factor: float) -> None:
    x = normal(20_000) * factor
    x[0] = 4.5 * factor
    raised = histogram_of(x).raised(floor)
    direct = histogram_of(x.clamp(min=floor))
    direct.widen_(raised.exponent.tolist())  # narrower bins can hold the raised values
    assert_same(raised, direct)
    extremes = histogram_of(x, bins=0).raised(floor)
    assert float(extremes.minimum) == max(float(x.min()), floor)
    assert float(extremes.maximum) == max(float(x.max()), floor)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60),
    cut=st.integers(1, 59),
)
def test_merging_is_exact_for_any_split(values: list[float], cut: int) -> None:
    x = torch.tensor(values)
    assert_same(histogram_of(x[:cut], x[cut:], bins=64), histogram_of(x, bins=64))


def test_counts_equal_numpy_on_the_same_edges() -> None:
    x = normal(10_000) * 3
    histogram = histogram_of(x, bins=256)
    width = 2.0 ** int(histogram.exponent)
    assert 64 < float(x.abs().max()) / width < 128  # the narrowest bins that hold it
    edges = (np.arange(257) - 128) * width
    assert histogram.counts[0].tolist() == np.histogram(x.numpy(), edges)[0].tolist()
    assert float(histogram.minimum) == float(x.min()) and float(histogram.maximum) == float(x.max())


def test_a_value_outside_doubles_the_bins_and_merges_pairs() -> None:
    histogram = histogram_of(torch.tensor([0.9, -0.9, 0.1, -0.01]), bins=8)
    assert int(histogram.exponent) == -2
    assert histogram.counts[0].tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    histogram.update_(torch.tensor([3.5]))
    assert int(histogram.exponent) == 0
    assert histogram.counts[0].tolist() == [0, 0, 0, 2, 2, 0, 0, 1]
    assert float(histogram.maximum) == 3.5


def test_clearing_forgets_and_nothing_changes_nothing() -> None:
    histogram = histogram_of(normal(100))
    histogram.update_(torch.empty(0))
    assert_same(histogram, histogram_of(normal(100)))
    histogram.clear_()
    assert_same(histogram, Histogram.empty())


def test_a_value_that_is_not_finite_shows_in_the_extremes() -> None:
    histogram = histogram_of(torch.tensor([1.0, torch.inf]))
    assert float(histogram.maximum) == torch.inf
    assert not bool(torch.isfinite(histogram_of(torch.tensor([1.0, torch.nan])).maximum))


def test_masked_update_equals_the_update_of_the_valid_values() -> None:
    x = normal(3, 5, 20)
    x[1, :, 11:], x[2, :, 4:] = 50.0, -70.0
    with valid_lengths(torch.tensor([2000, 1100, 400]), 2000):
        masked = histogram_of(valid_values(x, -1))
    assert_same(
        masked, histogram_of(torch.cat([x[0].flatten(), x[1, :, :11].flatten(), x[2, :, :4].flatten()]))
    )
    assert_same(histogram_of(valid_values(x, -1)), histogram_of(x))
