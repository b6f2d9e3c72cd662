"""The products of self-attention: off, calibrated, trained, emulated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qat.layer_recipe import LayerRecipe
from qat.layers.attention import QuantAttention
from qat.layers.masking import frame_mask, valid_lengths
from qat.layers.state import set_enabled_
from tests.runtime.conftest import calibrate_

SCALING = 0.25


def given(batch: int = 2, frames: int = 40, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(batch, 3, frames, width, generator=generator) for _ in range(3))
    return query, key, value


def bias_of(lengths: list[int], x: Tensor) -> Tensor:
    mask = frame_mask(torch.tensor(lengths), x, axis=2)
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None, None]


def calibrated(inputs: tuple[Tensor, Tensor, Tensor], bits: int = 8, **fields: object) -> QuantAttention:
    """Switched on, in eval mode."""
    products = QuantAttention(LayerRecipe(attention_bits=bits, **fields)).eval()  # type: ignore[arg-type]
    bias = bias_of([inputs[0].shape[2]] * len(inputs[0]), inputs[0])
    calibrate_(products, lambda: products(*inputs, bias, SCALING, 0.0))
    return products


def plain(inputs: tuple[Tensor, Tensor, Tensor], bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*inputs, bias, scale=SCALING)


def test_off_is_plain_attention() -> None:
    inputs = given()
    bias = bias_of([40, 23], inputs[0])
    products = QuantAttention(LayerRecipe(attention_bits=8))
    assert torch.equal(products(*inputs, bias, SCALING, 0.0), plain(inputs, bias))
    on = calibrated(inputs)
    set_enabled_(on, False)
    assert torch.equal(on(*inputs, bias, SCALING, 0.0), plain(inputs, bias))


@pytest.mark.parametrize(("bits", "error"), [(8, 0.03), (4, 0.4)])
def test_more_bits_err_less(bits: int, error: float) -> None:
    inputs = given()
    bias = bias_of([40, 40], inputs[0])
    with torch.no_grad():
        found = calibrated(inputs, bits)(*inputs, bias, SCALING, 0.0)
    right = plain(inputs, bias)
    assert 0 < float((found - right).norm() / right.norm()) < error


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_kernel_emulated_equals_fake_quantization(bits: int) -> None:
    """Evaluation adds whole numbers; with gradients the same levels are added as floats."""
    inputs = given()
    bias, products = bias_of([40, 23], inputs[0]), calibrated(inputs, bits)
    with torch.no_grad():
        emulated = products(*inputs, bias, SCALING, 0.0)
    torch.testing.assert_close(emulated, products(*inputs, bias, SCALING, 0.0), atol=1e-5, rtol=1e-4)


def test_levels_stay_in_range_and_the_right_side_is_signed() -> None:
    inputs = given()
    products = calibrated(inputs, reduce_range=True)
    for side, low, high in (("query", 0, 255), ("key", -63, 63), ("value", -63, 63)):
        levels, _, _ = getattr(products, f"{side}_quantizer").levels(100 * inputs[0])
        assert (int(levels.min()), int(levels.max())) == (low, high)


def test_even_attention_over_many_frames_is_kept() -> None:
    """1 / T lies below one of 255 levels between 0 and 1."""
    query, key, value = torch.zeros(1, 3, 1000, 16), torch.zeros(1, 3, 1000, 16), torch.rand(1, 3, 1000, 16)
    inputs = (query + 1e-3, key + 1e-3, value)
    with torch.no_grad():
        found = calibrated(inputs)(*inputs, bias_of([1000], query), SCALING, 0.0)
    torch.testing.assert_close(found, value.mean(2, keepdim=True).expand_as(found), atol=2e-3, rtol=0)


@torch.no_grad()
def test_an_utterance_is_the_same_alone_and_in_a_batch() -> None:
    inputs = given()
    products = calibrated(inputs)
    together = products(*inputs, bias_of([40, 23], inputs[0]), SCALING, 0.0)
    alone = tuple(x[1:, :, :23] for x in inputs)
    torch.testing.assert_close(
        products(*alone, bias_of([23], alone[0]), SCALING, 0.0), together[1:, :, :23], atol=1e-6, rtol=0
    )


def test_ranges_leave_padding_out() -> None:
    inputs = given()
    for x in inputs:
        x[1, :, 23:] = 1000.0
    with valid_lengths(torch.tensor([40, 23]), 40):
        products = calibrated(inputs)
    assert float(products.query_quantizer.scale) < 0.1 and float(products.value_quantizer.scale) < 0.1


def test_all_three_sides_learn() -> None:
    inputs = tuple(x.requires_grad_() for x in given())
    products = calibrated(tuple(x.detach() for x in inputs), rounding="stochastic")  # type: ignore[arg-type]
    products.train()(*inputs, bias_of([40, 40], inputs[0]), SCALING, 0.0).square().sum().backward()
    for x in inputs:
        assert x.grad is not None and float(x.grad.abs().sum()) > 0
