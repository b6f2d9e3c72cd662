"""GroupNorm on valid frames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layers.masked_norm import MaskedGroupNorm, mask_group_norms_


def norm_of(channels: int) -> MaskedGroupNorm:
    """One with random weights."""
    plain = nn.GroupNorm(channels, channels)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    return MaskedGroupNorm.of(plain)


def test_equals_group_norm_without_padding() -> None:
    norm, x = norm_of(6), torch.randn(2, 6, 50)
    plain = nn.GroupNorm(6, 6)
    plain.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x, torch.tensor([50, 50])), plain(x), atol=1e-5, rtol=1e-5)


def test_sums_squares_nearly_exactly() -> None:
    """What a long sum loses scales a whole channel and shows in the file as other levels: one row loses 1e-6."""
    x = torch.randn(1, 32, 4031, generator=torch.Generator().manual_seed(0))
    norm = MaskedGroupNorm.of(nn.GroupNorm(32, 32))
    out = norm(x, torch.tensor([4031]))
    variance = x.double().var(2, correction=0)
    right = (variance / (variance + norm.eps)).sqrt()
    assert (out.double().std(2, correction=0) / right - 1).abs().max() < 2e-7


def test_ignores_padding() -> None:
    norm, x = norm_of(6), torch.randn(2, 6, 50)
    alone, together = norm(x[1:, :, :20], torch.tensor([20])), norm(x, torch.tensor([50, 20]))
    torch.testing.assert_close(together[1:, :, :20], alone, atol=1e-6, rtol=1e-6)


def test_takes_the_place_of_group_norms_on_their_parameters() -> None:
    model = nn.Sequential(nn.Conv1d(1, 4, 2), nn.Sequential(nn.GroupNorm(4, 4)))
    before = dict(model.named_parameters())
    mask_group_norms_(model)
    assert isinstance(model[1][0], MaskedGroupNorm)
    assert {name: id(item) for name, item in model.named_parameters()} == {
        name: id(item) for name, item in before.items()
    }


def test_refuses_what_it_does_not_compute() -> None:
    for norm in (nn.GroupNorm(2, 4), nn.GroupNorm(4, 4, affine=False)):
        with pytest.raises(ValueError, match="one channel per group, and weights"):
            MaskedGroupNorm.of(norm)
