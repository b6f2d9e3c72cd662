"""Scales that even out ranges."""

from __future__ import annotations

import torch

from qat.numerics.equalization import equalizing_scale, spread


def ranges(seed: int, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.exp(2 * torch.randn(2, count, generator=generator))).unbind()


def test_scales_are_powers_of_two_whose_median_is_one() -> None:
    scale = equalizing_scale(*ranges(0))
    assert torch.equal(scale.log2(), scale.log2().round())
    assert scale.median() == 1


def test_scaled_ranges_are_even_within_a_factor_of_two() -> None:
    """Nagel's condition: the products of both ranges stay, and all channels have the same share of them."""
    first, second = ranges(1)
    scale = equalizing_scale(first, second)
    shares = (first / scale) / (second * scale)
    assert shares.max() / shares.min() <= 4 * 1.001  # a factor of two at each side
    assert shares.max() / shares.min() < 0.01 * (first / second).max() / (first / second).min()


def test_alpha_says_which_side_becomes_even() -> None:
    first, second = ranges(2)
    for alpha, even in (
        (1.0, first / equalizing_scale(first, second, 1.0)),
        (0.0, second * equalizing_scale(first, second, 0.0)),
    ):
        assert even.max() / even.min() <= 2 * 1.001, alpha


def test_a_common_factor_changes_no_scale_and_even_ranges_need_none() -> None:
    first, second = ranges(3)
    assert torch.equal(equalizing_scale(first, second), equalizing_scale(16 * first, second / 4))
    assert torch.equal(equalizing_scale(torch.full((5,), 3.0), torch.full((5,), 0.1)), torch.ones(5))


def test_a_channel_that_is_always_zero_or_never_read_stays() -> None:
    scale = equalizing_scale(torch.tensor([1.0, 0.0, 64.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]), 1.0)
    assert scale.tolist() == [1.0, 1.0, 64.0, 1.0]
    assert torch.equal(equalizing_scale(torch.zeros(3), torch.ones(3)), torch.ones(3))
    assert spread(torch.zeros(3)) == 1.0
