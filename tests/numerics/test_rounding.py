"""Rounding: unbiased and keyed where stochastic, half to even where nearest."""

from __future__ import annotations

import math

import pytest
import torch

from qat.numerics.affine import fake_quantize
from qat.numerics.rounding import noise_bits, round_nearest, round_stochastic, uniform_noise

CPU = torch.device("cpu")
COUNT = 40_000


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
