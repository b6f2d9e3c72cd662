"""Integer weights, biases and ranges, read off quantizers."""

from __future__ import annotations

import pytest
import torch

from qat.layer_recipe import LayerRecipe
from qat.layers.activation import ActivationQuantizer
from qat.layers.conv import QuantConv1d
from qat.layers.weight import WeightQuantizer
from qat.runtime.weights import ActivationRange, integer_bias, integer_weight


def test_signed_ranges_become_unsigned() -> None:
    quantizer = ActivationQuantizer(LayerRecipe(activation_signed=True))
    quantizer.set_range_(torch.tensor([0.5]), torch.tensor([0]))
    moved = ActivationRange(quantizer)
    assert (int(moved.zero_point), moved.quant_min, moved.quant_max) == (128, 1, 255)


def test_a_dead_channel_keeps_its_bias() -> None:
    layer = torch.nn.Conv1d(2, 2, 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, 3.0)
    quant = QuantConv1d.from_float(layer, LayerRecipe())
    quant.weight_quantizer.calibrate_(quant.weight, "weight")
    quant.weight_quantizer.set_enabled_(True)
    weight, scale = integer_weight(quant.weight, quant.weight_quantizer.eval())
    levels, scale = integer_bias(quant.bias, weight, torch.tensor(1e-3), scale)
    torch.testing.assert_close(levels * scale * 1e-3, torch.full((2,), 3.0), rtol=1e-6, atol=0)


def test_levels_of_a_quantizer_that_is_off_are_refused() -> None:
    weight = torch.randn(3, 3)
    quantizer = WeightQuantizer(weight, LayerRecipe())
    with pytest.raises(RuntimeError, match="not made of integer levels"):
        integer_weight(weight, quantizer.eval())
