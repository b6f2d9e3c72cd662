"""Rounding: unbiased and keyed where stochastic, PyTorch's own where nearest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.numerics.affine import dequantize, fake_quantize, quantize
from qat.numerics.ranges import symmetric_range
from qat.numerics.rounding import noise_bits, round_nearest, round_stochastic, uniform_noise

CPU = torch.device("cpu")
COUNT = 40_000
FLOATS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)


@pytest.mark.parametrize("scale", [1.0, 0.037, 2.0**-12])
@pytest.mark.parametrize("fraction", [0.03, 0.25, 0.5, 0.81])
@pytest.mark.parametrize("level", [-5, 0, 90])
def test_stochastic_rounding_is_unbiased(fraction: float, scale: float, level: int) -> None:
    x = torch.full((COUNT,), (level + fraction) * scale)
    noise = noise_bits(x.shape, (0, level, round(100 * fraction)), CPU)
    out = fake_quantize(x, torch.tensor([scale]), None, -127, 127, noise=noise)
    error = float((out.double() - x.double()).mean())
    sigma = scale * math.sqrt(fraction * (1 - fraction))
    assert abs(error) <= 4 * sigma / math.sqrt(COUNT) + 2**-16 * scale


@pytest.mark.parametrize("floats", [True, False])
def test_stochastic_rounding_lands_only_on_the_levels_around_a_value(floats: bool) -> None:
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(0)) * 20
    noise = (uniform_noise if floats else noise_bits)(x.shape, (1, 2), CPU)
    out = fake_quantize(x, torch.ones(1), None, -127, 127, noise=noise)
    assert bool(((out == x.floor()) | (out == x.ceil())).all())
    assert bool((out == x.floor()).any()) and bool((out == x.ceil()).any())


def test_stochastic_rounding_keeps_whole_numbers() -> None:
    x = torch.arange(-127.0, 128.0)
    assert torch.equal(round_stochastic(x, uniform_noise(x.shape, (3,), CPU)), x)
    assert torch.equal(
        fake_quantize(x, torch.ones(1), None, -127, 127, noise=noise_bits(x.shape, (3,), CPU)), x
    )


def test_noise_is_in_the_unit_interval_and_flat() -> None:
    noise = uniform_noise((1 << 16,), (5,), CPU)
    assert float(noise.min()) >= 0 and float(noise.max()) < 1
    counts = torch.histc(noise, 16, 0, 1)
    assert bool(((counts - 4096).abs() < 5 * math.sqrt(4096)).all())


def test_same_key_gives_the_same_bits_whatever_the_global_generator_does() -> None:
    first = noise_bits(torch.Size((7, 11)), (0, 1, 2, 3), CPU)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(first, noise_bits(torch.Size((7, 11)), (0, 1, 2, 3), CPU))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("place", range(5), ids=["seed", "step", "index", "purpose", "rank"])
def test_any_part_of_the_key_changes_the_bits(place: int) -> None:
    key = [0, 10, 2, 0, -1]
    other = list(key)
    other[place] += 1
    bits = [noise_bits(torch.Size((4096,)), tuple(item), CPU) for item in (key, other)]
    assert float((bits[0] == bits[1]).float().mean()) < 0.01
    correlation = torch.corrcoef(torch.stack(bits).double())[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(4096)


def test_swapped_parts_of_the_key_change_the_bits() -> None:
    size = torch.Size((4096,))
    assert not torch.equal(noise_bits(size, (0, 1), CPU), noise_bits(size, (1, 0), CPU))


def test_nearest_rounds_half_to_even() -> None:
    assert round_nearest(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


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
    bits = None if noise is None else noise_bits(x.shape, noise, CPU)
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
