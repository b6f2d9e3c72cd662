"""Shapes and signs of scales, and the factor of their gradient."""

from __future__ import annotations

import pytest
import torch

from qat.numerics.scales import SCALE_FLOOR, along, both_along, lsq_factor, positive


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_scales_broadcast_along_their_axis(axis: int) -> None:
    x = torch.ones(2, 3, 4)
    scale = torch.arange(1.0, x.shape[axis] + 1)
    product = x * along(scale, 3, axis)
    assert torch.equal(product.movedim(axis, -1)[0, 0], scale)
    assert both_along(scale, None, 3, axis)[1] is None


def test_one_scale_stays_as_it_is() -> None:
    scale = torch.tensor([0.5])
    assert along(scale, 4, 0) is scale and along(scale, 4, None) is scale


def test_a_learned_scale_counts_by_its_magnitude_and_another_as_it_is() -> None:
    raw = torch.tensor([-0.5, 0.0, 2.0], requires_grad=True)
    assert positive(raw).tolist() == [0.5, SCALE_FLOOR, 2.0]
    plain = torch.tensor([0.5])
    assert positive(plain) is plain


def test_the_gradient_of_a_scale_shrinks_with_the_values_that_share_it() -> None:
    assert lsq_factor(400, 4, 7) == (100 * 7) ** -0.5
    assert lsq_factor(0, 1, 7) > 0, "an empty tensor has a factor too"
