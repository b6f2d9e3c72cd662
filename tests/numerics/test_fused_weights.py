"""Many weights in one launch, in Triton's interpreter: each as the plain path has it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qat.numerics.affine import fake_quantize
from qat.numerics.fused_weights import Table, WeightMode, least_of, weight_gradients
from qat.numerics.rounding import NoiseKey

pytest.importorskip("triton")
KEY = NoiseKey.of(1, 2)
SHAPES = [(40, 700), (3, 5, 7), (17, 1), (16, 256)]


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def mode(**fields: object) -> WeightMode:
    values = {
        "low": -7, "high": 7, "offset": 0.0, "share": 1.0, "covered": False, "follows": False,
        "stochastic": False, "learned": False, "dtype": torch.float32,
    }  # fmt: skip
    return WeightMode(**{**values, **fields})  # type: ignore[arg-type]


def plain(weight: Tensor, scale: Tensor, chosen: WeightMode, key: NoiseKey) -> Tensor:
    """The same by `fake_quantize`."""
    offset = (chosen.offset * scale).view(-1, *[1] * (weight.ndim - 1)) if chosen.offset else None
    noise = key if chosen.stochastic else None
    x = weight if offset is None else weight - offset
    out = fake_quantize(x, scale, None, chosen.low, chosen.high, 0 if len(scale) > 1 else None, noise)
    out = out if offset is None else out + offset
    if chosen.share == 1:
        return out
    bits = key._replace(stream=int(key.stream) + 1).bits(weight.shape)
    return torch.where(bits < least_of(chosen.share), out, weight)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("each", [True, False], ids=["channel", "tensor"])
def test_all_weights_and_their_gradients_equal_the_plain_path(
    stochastic: bool, offset: float, share: float, each: bool
) -> None:
    chosen = mode(stochastic=stochastic, offset=offset, share=share)
    found = weights()
    scales = [torch.linspace(0.1, 0.3, len(item)) if each else torch.tensor([0.2]) for item in found]
    keys = [KEY._replace(stream=2 * number) for number in range(len(found))]
    results = Table(found, scales, [int(key.stream) for key in keys]).quantize(chosen, KEY)
    for weight, scale, key, result in zip(found, scales, keys, results, strict=True):
        leaf = weight.clone().requires_grad_()
        expected = plain(leaf, scale, chosen, key)
        assert torch.equal(result, expected)
        up = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        expected.backward(up)
        grad, none = weight_gradients(up, weight, scale, chosen, key)
        assert torch.equal(grad, leaf.grad) and none is None


def test_a_scale_that_follows_is_the_largest_magnitude_of_its_row_and_is_stored() -> None:
    found = weights()
    found[0][3] = 0  # a dead channel
    scales = [torch.ones(len(item)) for item in found]
    chosen = mode(covered=True, follows=True, offset=0.5, low=-2, high=1)
    results = Table(found, scales, [0] * len(found)).quantize(chosen, KEY)
    for weight, scale, result in zip(found, scales, results, strict=True):
        expected = (weight.flatten(1).abs().amax(1) / 1.5).clamp(min=2.0**-30)
        assert torch.equal(scale, expected)
        assert torch.equal(result, plain(weight, expected, chosen, KEY))
    assert chosen.passes and not chosen.draws


def test_each_weight_starts_where_a_matrix_product_likes_it() -> None:
    found = weights()
    results = Table(found, [torch.ones(len(item)) for item in found], [0] * 4).quantize(mode(), KEY)
    assert all((item.data_ptr() - results[0].data_ptr()) % 128 == 0 for item in results)
    assert [item.shape for item in results] == [item.shape for item in found]
