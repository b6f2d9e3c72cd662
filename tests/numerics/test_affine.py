"""Fake quantization equals PyTorch's with its gradients, learned scales included; dynamic ranges are ONNX's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import swap_
from qat.numerics.affine import centred_levels, dequantize, dynamic_range, fake_quantize, quantize
from qat.numerics.ranges import symmetric_range
from qat.numerics.rounding import NoiseKey
from qat.recipe import Recipe

NORMAL = st.floats(-1e6, 1e6, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)  # so is their scale
FLOATS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)


@pytest.mark.parametrize("low,high,zero", [(-127, 127, 0), (-7, 7, 0), (-1, 1, 0), (0, 255, 113), (0, 3, 1)])
@pytest.mark.parametrize("scale", [0.031, 0.5, 1.7e-3])
def test_nearest_equals_pytorch_per_tensor_with_its_gradient(
    low: int, high: int, zero: int, scale: float
) -> None:
    torch.manual_seed(0)
    ours = (torch.randn(1000) * scale * 1.2 * (high - low)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    scales, zeros = torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32)
    out = fake_quantize(ours, scales, zeros, low, high)
    expected = torch.fake_quantize_per_tensor_affine(theirs, scales, zeros, low, high)
    assert torch.equal(out, expected)
    up = torch.randn(1000)
    out.backward(up)
    expected.backward(up)
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < int((ours.grad == 0).sum()) < 1000


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nearest_equals_pytorch_per_channel_with_its_gradient(axis: int) -> None:
    torch.manual_seed(axis)
    ours = torch.randn(5, 6, 7).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    channels = ours.shape[axis]
    scales = torch.rand(channels) * 0.1 + 0.01
    zeros = torch.randint(3, 12, (channels,), dtype=torch.int32)
    out = fake_quantize(ours, scales, zeros, 0, 15, axis)
    expected = torch.fake_quantize_per_channel_affine(theirs, scales, zeros, axis, 0, 15)
    assert torch.equal(out, expected)
    up = torch.randn_like(ours)
    out.backward(up)
    expected.backward(up)
    assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(fake_quantize(ours, scales, zeros, 0, 15, axis), expected)


@settings(max_examples=60, deadline=None)
@given(values=FLOATS, bits=st.integers(2, 8))
def test_error_inside_the_range_is_at_most_half_a_step(values: list[float], bits: int) -> None:
    x, top = torch.tensor(values), 2 ** (bits - 1) - 1
    scale, zero = symmetric_range(x.abs().max().view(1), top)
    out = fake_quantize(x, scale, zero, -top, top)
    assert float((out - x).abs().max()) <= float(scale) * (0.5 + 1e-4)


@settings(max_examples=60, deadline=None)
@given(values=FLOATS, scale=st.floats(2**-20, 100, width=32), zero=st.integers(0, 15))
def test_quantizing_twice_is_quantizing_once(values: list[float], scale: float, zero: int) -> None:
    x, arguments = (
        torch.tensor(values),
        (torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32), 0, 15),
    )
    once = fake_quantize(x, *arguments)
    assert torch.equal(fake_quantize(once, *arguments), once)
    levels = quantize(x, *arguments)
    assert levels.dtype == torch.uint8 and int(levels.max()) <= 15
    assert torch.equal(dequantize(levels, *arguments[:2]), once)


@pytest.mark.parametrize("noise", [None, (9,)])
def test_values_outside_the_range_are_clipped(noise: tuple[int, ...] | None) -> None:
    x = torch.tensor([-1e6, -9.0, 9.0, 1e6])
    bits = None if noise is None else NoiseKey.of(*noise)
    assert fake_quantize(x, torch.tensor([0.5]), None, -3, 3, noise=bits).tolist() == [-1.5, -1.5, 1.5, 1.5]
    zero = torch.tensor([2], dtype=torch.int32)
    assert fake_quantize(x, torch.tensor([0.5]), zero, 0, 7, noise=bits).tolist() == [-1, -1, 2.5, 2.5]


def test_half_precision_input_keeps_its_type() -> None:
    x = torch.randn(50)
    for dtype in (torch.bfloat16, torch.float16):
        out = fake_quantize(x.to(dtype), torch.tensor([0.1]), None, -127, 127)
        expected = fake_quantize(x.to(dtype).float(), torch.tensor([0.1]), None, -127, 127)
        assert out.dtype == dtype and torch.equal(out, expected.to(dtype))


def test_a_learned_scale_gets_the_gradient_of_lsq() -> None:
    scale = torch.tensor([0.5], requires_grad=True)
    x = torch.tensor([0.3, -0.9, 9.0, -9.0])
    fake_quantize(x, scale, None, -3, 3, grad_factor=0.25).sum().backward()
    inside = (1 - 0.6) + (-2 + 1.8)
    torch.testing.assert_close(scale.grad, torch.tensor([0.25 * (inside + 3 - 3)]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("low,high,zero", [(-7, 7, 0), (0, 15, 5)])
def test_learned_scale_equals_pytorch_per_tensor(low: int, high: int, zero: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(4000)
    up = torch.randn(4000)
    found = []
    for ours in (True, False):
        scale, value = torch.tensor([0.11], requires_grad=True), x.clone().requires_grad_()
        if ours:
            out = fake_quantize(
                value, scale, torch.tensor([zero], dtype=torch.int32), low, high, grad_factor=0.3
            )
        else:
            out = torch._fake_quantize_learnable_per_tensor_affine(
                value, scale, torch.tensor([float(zero)]), low, high, 0.3
            )
        out.backward(up)
        found.append((out, value.grad, scale.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)  # sums in another order


def test_learned_scale_equals_pytorch_per_channel() -> None:
    torch.manual_seed(0)
    x, up = torch.randn(5, 300), torch.randn(5, 300)
    found = []
    for ours in (True, False):
        scale, value = torch.linspace(0.05, 0.3, 5).requires_grad_(), x.clone().requires_grad_()
        if ours:
            out = fake_quantize(value, scale, None, -7, 7, axis=0, grad_factor=0.3)
        else:
            out = torch._fake_quantize_learnable_per_channel_affine(
                value, scale, torch.zeros(5), 0, -7, 7, 0.3
            )
        out.backward(up)
        found.append((out, value.grad, scale.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)


def test_a_scale_that_covers_the_values_needs_no_mask() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 50)
    grads = []
    for clips in (True, False):
        x = values.clone().requires_grad_()
        out = fake_quantize(x, values.abs().amax(1) / 7, None, -7, 7, axis=0, clips=clips)
        out.sum().backward()
        grads.append((out, x.grad))
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])


def test_autocast_quantizes_in_float32() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(8, 8), nn.Conv1d(5, 4, 3), nn.LSTM(6, 4, batch_first=True)),
        torch.randn(2, 5, 8),
    )
    swap_(model, Recipe(preset="test", weight_observer="max"))
    calibrate_weights_(model)
    set_observing_(model, True)
    model(x)
    set_observing_(model, False)
    finish_calibration_(model)
    set_enabled_(model, True)
    weight = model[0].weight_quantizer(model[0].weight)
    for training in (True, False):
        model.train(training)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model[0].weight_quantizer(model[0].weight), weight)
            out = model(x)[0]
        assert bool(torch.isfinite(out).all())
        torch.testing.assert_close(out.float(), model(x)[0], atol=0.05, rtol=0.05)  # bfloat16 products
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        model(x)[0].float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(NORMAL, NORMAL), min_size=1, max_size=5))
def test_a_dynamic_range_holds_its_values_and_zero_and_its_levels_are_unsigned(
    rows: list[tuple[float, float]],
) -> None:
    x = torch.tensor(rows)
    scale, zero_point = dynamic_range(x.amin(1, keepdim=True), x.amax(1, keepdim=True))
    assert bool((scale > 0).all()) and bool(torch.isfinite(scale).all())
    assert bool((zero_point == zero_point.round()).all()) and 0 <= zero_point.min() <= zero_point.max() <= 255
    levels = centred_levels(x, scale, zero_point) + zero_point
    assert bool((levels == levels.round()).all()) and 0 <= levels.min() <= levels.max() <= 255
    assert not centred_levels(torch.zeros_like(x), scale, zero_point).any(), "zero is a level"
    error = (centred_levels(x, scale, zero_point) * scale - x).abs()
    assert bool((error <= scale * (1 + 1e-4)).all()), "half a step each of the value and of the zero point"


def test_a_range_of_zero_alone_gets_scale_one() -> None:
    scale, zero_point = dynamic_range(torch.zeros(3), torch.zeros(3))
    assert scale.tolist() == [1.0] * 3 and zero_point.tolist() == [0.0] * 3


@pytest.mark.parametrize("low, high", [(-3.0, 5.0), (0.5, 2.0), (-7.0, -1.0)])
@pytest.mark.parametrize("levels", [15, 255])
def test_dynamic_ranges_and_levels_follow_the_formulas_of_onnx(low: float, high: float, levels: int) -> None:
    """`DynamicQuantizeLinear` for the range and `QuantizeLinear` for the levels, in numpy's float32."""
    x = np.random.default_rng(0).uniform(low, high, 1_000).astype(np.float32)
    least, most = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    step = (most - least) / np.float32(levels)
    offset = np.clip(np.rint(-least / step), 0, levels)
    scale, zero_point = dynamic_range(torch.tensor(x.min()), torch.tensor(x.max()), levels)
    assert float(scale) == step and float(zero_point) == offset
    expected = np.clip(np.rint(x / step) + offset, 0, levels) - offset
    np.testing.assert_array_equal(
        centred_levels(torch.from_numpy(x), scale, zero_point, 0, levels).numpy(), expected
    )


@pytest.mark.parametrize("quant_min, quant_max, zero", [(0, 255, 113), (-128, 127, -5), (0, 15, 3)])
def test_centred_levels_are_those_of_quantize_for_scales_that_are_powers_of_two(
    quant_min: int, quant_max: int, zero: int
) -> None:
    """Dividing and multiplying by the reciprocal are the same only there."""
    x, scale = torch.randn(1_000, generator=torch.Generator().manual_seed(0)) * 9, torch.tensor([2.0**-4])
    zero_point = torch.tensor([zero], dtype=torch.int32)
    expected = quantize(x, scale, zero_point, quant_min, quant_max).float() - zero
    assert torch.equal(centred_levels(x, scale, zero_point.float(), quant_min, quant_max), expected)
