"""Weights on their levels: bits, ranges, half steps, Quant-Noise, learned scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layer_recipe import LayerRecipe
from qat.layers.state import (
    calibrate_weights_,
    set_enabled_,
)
from qat.layers.swap import quant_layers, swap_
from qat.layers.weight import WeightQuantizer
from tests.layers.hosts import enabled, kinds, recipe


@kinds
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@torch.no_grad()
def test_a_weight_takes_no_more_levels_than_its_bits_allow(
    layer_kind: str, bits: int, granularity: str
) -> None:
    model, _ = enabled(layer_kind, bits, weight_granularity=granularity)
    (_, layer), *_ = quant_layers(model)
    found = list(layer.weights())
    assert found
    for _, weight, quantizer in found:
        assert quantizer.scale.shape == (len(weight) if granularity == "channel" else 1,)
        rows = quantizer(weight).flatten(1) if granularity == "channel" else quantizer(weight).view(1, -1)
        assert max(len(row.unique()) for row in rows) <= 2**bits - (bits > 3)
        levels = quantizer(weight).flatten(1) / quantizer.scale.view(-1, 1)
        levels = levels - quantizer.level_offset
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        top = 2 ** (bits - 1) - 1
        assert -top - (bits < 4) - 1e-4 <= float(levels.min()) and float(levels.max()) <= top + 1e-4


@kinds
def test_reduce_range_leaves_127_levels_at_8_bits(layer_kind: str) -> None:
    model, _ = enabled(layer_kind, 8, reduce_range=True, weight_observer="max")
    (_, layer), *_ = quant_layers(model)
    for _, weight, quantizer in layer.weights():
        levels = (quantizer(weight).detach().flatten(1) / quantizer.scale.view(-1, 1)).round()
        assert float(levels.abs().max()) == 63
        assert len(levels.unique()) <= 127
        assert (quantizer.quant_min, quantizer.quant_max) == (-63, 63)


def test_quant_noise_quantizes_its_share_in_training_and_all_in_evaluation() -> None:
    model, _ = enabled("linear", 2, quant_noise=0.25, weight_observer="max")
    big = nn.Sequential(nn.Linear(200, 100))
    swap_(big, recipe(2, quant_noise=0.25, activation_bits=0, weight_observer="max"))
    calibrate_weights_(big)
    set_enabled_(big, True)
    layer = big[0]
    kept = (layer.train().weight_quantizer(layer.weight) == layer.weight).float().mean()
    assert abs(float(kept) - 0.75) < 0.02
    assert (layer.eval().weight_quantizer(layer.weight) == layer.weight).float().mean() < 0.02
    assert model.layer.eval().weight_quantizer(model.layer.weight).unique().numel() <= 4 * 6


def test_max_scales_follow_the_weights_in_training_and_others_stay() -> None:
    for observer, moves in (("max", True), ("mse", False)):
        model, x = enabled("linear", 8, weight_observer=observer)
        before = model.layer.weight_quantizer.scale.clone()
        with torch.no_grad():
            model.layer.weight.mul_(2)
        model.train()(x)
        expected = 2 * before if moves else before
        torch.testing.assert_close(model.layer.weight_quantizer.scale, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("bits", "mid_rise", "least"),
    [(2, False, 0.1902), (2, True, 0.1188), (3, True, 0.03744)],
)
def test_noise_on_gaussian_weights_is_that_of_the_best_uniform_quantizer(
    bits: int, mid_rise: bool, least: float
) -> None:
    """Max 1960, "Quantizing for minimum distortion", table II: 3, 4 and 8 levels."""
    layer_recipe = LayerRecipe(weight_bits=bits, mid_rise=mid_rise, weight_granularity="tensor")
    weight = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).view(1, -1)
    quantizer = WeightQuantizer(weight, layer_recipe).eval()
    quantizer.calibrate_(weight, "w")
    quantizer.set_enabled_(True)
    found = quantizer(weight)
    assert len(found.unique()) == 2**bits - (not mid_rise)
    assert float((found - weight).square().mean()) == pytest.approx(least, rel=0.01)
    torch.testing.assert_close(found.unique(), -found.unique().flip(0))


def test_a_learned_scale_gets_the_gradient_of_lsq_between_whole_steps_as_well() -> None:
    """(level - w / s) inside, the level outside, times 1 / sqrt(numel quant_max); the levels are -1.5 ... 1.5."""
    weight = torch.tensor([[0.2, 0.9, -0.4, 5.0, -5.0]], requires_grad=True)
    quantizer = WeightQuantizer(weight, LayerRecipe(weight_bits=2, learn_scale=True)).train()
    quantizer.set_scale_(torch.tensor([0.5]))
    quantizer.set_enabled_(True)
    out = quantizer(weight)
    levels = torch.tensor([[0.5, 1.5, -0.5, 1.5, -1.5]])
    torch.testing.assert_close(out, 0.5 * levels)
    out.sum().backward()
    inside = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, inside)
    expected = (levels - inside * weight.detach() / 0.5).sum() / (5 * quantizer.quant_max) ** 0.5
    torch.testing.assert_close(quantizer.scale.grad, expected.view(1))
