"""A range for each frame: the levels, the gradient, the layers, and what cannot have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.frames import FrameQuantizer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_
from qat.layers.swap import swap_
from qat.methods.reconstruction import linear_maps
from qat.recipe import Recipe
from qat.rule import Rule
from qat.system.errors import UserError

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (2, 9, 6)),
    "conv": (lambda: nn.Conv1d(4, 6, 3, stride=2), (2, 4, 17)),
    "padded": (lambda: nn.Conv1d(4, 6, 3, padding=1, bias=False), (2, 4, 17)),
    "dilated": (lambda: nn.Conv1d(4, 6, 3, dilation=2, padding=2, padding_mode="reflect"), (2, 4, 17)),
    "pairs": (lambda: nn.Conv1d(4, 6, 2, stride=2), (2, 4, 17)),
}


def quantizer(bits: int = 8, rounding: Any = "nearest") -> FrameQuantizer:
    made = FrameQuantizer(
        LayerRecipe(activation_bits=bits, activation_granularity="frame", rounding=rounding)
    )
    made.finish_calibration_("input")
    made.set_enabled_(True)
    return made.eval()


def quantized(layer: nn.Module, **fields: Any) -> nn.Module:
    """A model of one layer, not switched on yet."""
    model = nn.Sequential(layer)
    swap_(model, Recipe(preset="x", activation_granularity="frame", reduce_range=True, **fields))
    calibrate_weights_(model)
    finish_calibration_(model)
    return model.eval()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_each_row_uses_all_levels_and_errs_by_half_a_step(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64) * torch.logspace(-6, 3, 50)[:, None] + torch.randn(50, 1)
    levels, scale, zero_point = quantizer(bits).levels(x)
    assert torch.equal(levels, levels.round()) and torch.equal(zero_point, zero_point.round())
    assert zero_point.min() >= 0 and zero_point.max() <= 2.0**bits - 1
    full = (levels.amax(1) - levels.amin(1))[(x.amin(1) < 0) & (x.amax(1) > 0)]
    # zero is a level, which may cost half of one at each end
    assert ((full == 2.0**bits - 1) | (full == 2.0**bits - 2)).all()
    inner = ((levels - zero_point) * scale - x).abs() <= scale * 0.5001 + 1e-6 * x.abs().amax(1, keepdim=True)
    clipped = (levels == 0) | (levels == 2.0**bits - 1)
    assert (inner | clipped).all() and (((levels - zero_point) * scale - x).abs() <= scale * 1.001).all()


def test_a_quiet_row_is_as_exact_as_a_loud_one() -> None:
    """The law: a power of two changes nothing but the scale. One range for all loses the quiet row."""
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    both = torch.cat([x, x * 2.0**-10])
    out = quantizer(4)(both)
    assert torch.equal(out[0] * 2.0**-10, out[1])


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30])
def test_a_row_of_one_value_keeps_it(value: float) -> None:
    x = torch.full((2, 8), value)
    torch.testing.assert_close(quantizer()(x), x, rtol=1e-6, atol=1e-30)


def test_the_range_of_a_window_is_that_of_its_frames_and_zero() -> None:
    rows = torch.tensor([[2.0, 3.0, 4.0], [-4.0, -3.0, -2.0], [-1.0, 0.0, 3.0]])
    levels, scale, zero_point = quantizer(2).levels(rows)
    assert zero_point.flatten().tolist() == [0.0, 3.0, 1.0]
    torch.testing.assert_close(scale.flatten(), torch.tensor([4.0, 4.0, 4.0]) / 3)
    assert levels.tolist() == [[2.0, 2.0, 3.0], [0.0, 1.0, 1.0], [0.0, 1.0, 3.0]]


def test_stochastic_rounding_is_unbiased_in_training_and_absent_in_evaluation() -> None:
    x = torch.rand(1, 16, generator=torch.Generator().manual_seed(0))
    noisy = quantizer(3, "stochastic")
    assert torch.equal(noisy(x), quantizer(3)(x))
    noisy.train()
    draws = []
    for step in range(4000):
        noisy.noise.key.step = step
        draws.append(noisy(x))
    mean, scale = torch.stack(draws).mean(0), noisy.levels(x)[1]
    assert ((mean - x).abs() < 4 * 0.5 * scale / 4000**0.5 + 1e-6).all()
    assert torch.equal(noisy(x), draws[-1])  # the same step, the same noise


def test_the_gradient_passes_straight_through() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    weight = torch.randn(3, 8)
    (quantizer(2).train()(x) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


@pytest.mark.parametrize("name", LAYERS)
def test_off_is_the_plain_layer_and_on_is_near(name: str) -> None:
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build(), torch.randn(shape)
    with torch.no_grad():
        plain = layer(x)
        model = quantized(layer)
        assert torch.equal(model(x), plain)
        set_enabled_(model, True)
        whole = model(x)
    fake = model(x)  # with a gradient: products of rounded values
    torch.testing.assert_close(fake, whole, rtol=0, atol=1e-5)
    assert 0 < (whole - plain).abs().max() < 0.05


@pytest.mark.parametrize("name", LAYERS)
def test_ada_round_sees_the_rows_that_are_multiplied(name: str) -> None:
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    model, x = quantized(build(), activation_bits=3, ada_round=True), torch.randn(shape)
    set_enabled_(model, True)
    layer: Any = model[0]  # type: ignore[index]
    (item,) = linear_maps("0", layer)
    with torch.no_grad():
        rows = item.rows(x, True, torch.Generator().manual_seed(0))
        out: Tensor = (rows @ item.quantized_weight.transpose(1, 2))[0]
        expected = model(x) if name == "linear" else model(x).transpose(1, 2)
    bias = 0.0 if layer.bias is None else layer.bias
    torch.testing.assert_close(out + bias, expected.flatten(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "fields", "what"),
    [
        (nn.Conv1d(4, 4, 3, groups=2), {}, "this is a Conv1d of groups with 8-bit weights"),
        (nn.Conv2d(4, 4, 3), {}, "this is a Conv2d"),
        (nn.LSTM(4, 4), {}, "this is a LSTM"),
        (nn.Linear(4, 4), {"weight_bits": None}, "this is a Linear with float-bit weights"),
    ],
)
def test_layers_that_cannot_have_it_are_named(layer: nn.Module, fields: dict[str, Any], what: str) -> None:
    recipe = Recipe(preset="x", activation_granularity="frame", **fields)
    with pytest.raises(UserError, match=rf"0: activation_granularity frame must be given to .*{what}.*rule"):
        swap_(nn.Sequential(layer), recipe)
    left_out = Recipe(
        preset="x",
        activation_granularity="frame",
        rules=[Rule("*", activation_granularity="tensor")],
        **fields,
    )
    assert swap_(nn.Sequential(layer), left_out).swapped == ["0"]
