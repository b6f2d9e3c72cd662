"""The emulated integer kernels: whole-number sums, and the fake-quantized layer up to the rounding of its output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer, emulates_kernel
from qat.layers.integer import bias_levels
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import QUANT_LAYERS
from tests.pretend_gpu import PretendGPU

LAYERS = {
    "linear": (lambda: nn.Linear(12, 7), (5, 9, 12)),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3, stride=2, padding=1, groups=2), (3, 8, 21)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 2, 9, 8)),
}


def calibrated(name: str, **recipe: object) -> tuple[QuantLayer, Tensor]:
    """A layer with its quantizers on, in eval mode, and an input."""
    torch.manual_seed(3)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    quant = QUANT_LAYERS[type(layer)].from_float(layer, LayerRecipe(**recipe)).eval()  # type: ignore[arg-type]
    set_observing_(quant, True)
    with torch.no_grad():
        quant(x)
    set_observing_(quant, False)
    calibrate_weights_(quant)
    finish_calibration_(quant)
    set_enabled_(quant, True)
    return quant, x


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_emulation_is_the_fake_quantized_layer_within_a_level_of_its_output(
    name: str, bits: int, signed: bool
) -> None:
    layer, x = calibrated(name, weight_bits=bits, activation_signed=signed)
    fake = layer(x)  # a gradient is possible, so the differentiable path
    with torch.no_grad():
        exact = layer(x)
    output = getattr(layer, "output_quantizer", None)
    step = float(output.scale) if output is not None else 0.0
    difference = (fake - exact).abs()
    assert difference.max() <= step * 1.001 + 1e-5
    if bits == 8:  # with fewer, a level of the output holds few whole sums, and a bias has to be one of those
        assert (difference > 1e-5).float().mean() < 0.02


@torch.no_grad()
def test_sums_are_those_of_int64() -> None:
    layer, x = calibrated("conv1d")
    inputs, outputs = layer.input_quantizer, layer.output_quantizer
    levels = inputs.levels(x)[0] - inputs.zero_point
    weight, scale, _ = layer.weight_quantizer.levels(layer.weight)
    bias, scale = bias_levels(layer.bias, weight, inputs.scale, scale)
    sums = nn.functional.conv1d(
        levels.long(), weight.long(), bias.long(), layer.stride, layer.padding, layer.dilation, layer.groups
    )
    factor = (inputs.scale * scale / outputs.scale)[None, :, None]
    zero = outputs.zero_point
    expected = ((sums.float() * factor).round() + zero).clamp(0, 255).sub(zero).mul(outputs.scale)
    assert torch.equal(layer(x), expected)


def test_only_an_evaluated_layer_without_gradient_and_with_both_sides_on_emulates() -> None:
    layer, x = calibrated("linear")
    assert not emulates_kernel(layer, x)
    with torch.no_grad():
        assert emulates_kernel(layer, x)
        assert not emulates_kernel(layer.train(), x)
        layer.eval()
        set_observing_(layer, True)
        assert not emulates_kernel(layer, x)
        set_observing_(layer, False)
        layer.weight_quantizer.set_enabled_(False)
        assert not emulates_kernel(layer, x)
    for one_sided in ({"weight_bits": None}, {"activation_bits": None}):
        partly, x = calibrated("linear", **one_sided)
        with torch.no_grad():
            assert not emulates_kernel(partly, x)


@pytest.mark.parametrize("layer_kind", ["linear", "conv1d"])
@torch.no_grad()
def test_on_a_gpu_evaluation_has_the_arithmetic_of_training(layer_kind: str) -> None:
    layer, x = calibrated(layer_kind)
    trained = layer.train()(x)
    with PretendGPU():
        layer.eval().to("cuda")
        there = x.to("cuda")
        assert not emulates_kernel(layer, there)
        assert torch.equal(layer(there).cpu(), trained)


@torch.no_grad()
def test_emulation_keeps_the_dtype_and_ignores_autocast() -> None:
    layer, x = calibrated("conv1d")
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
