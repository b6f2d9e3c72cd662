"""Rounding: unbiased and keyed where stochastic, half to even where nearest."""

from __future__ import annotations

import math

import pytest
import torch

from qat.numerics.affine import fake_quantize
from qat.numerics.rounding import NoiseKey, device_part, round_nearest, round_stochastic, uniform_noise

COUNT = 40_000


@pytest.mark.parametrize("scale", [1.0, 0.037, 2.0**-12])
@pytest.mark.parametrize("fraction", [0.03, 0.25, 0.5, 0.81])
@pytest.mark.parametrize("level", [-5, 0, 90])
def test_stochastic_rounding_is_unbiased(fraction: float, scale: float, level: int) -> None:
    x = torch.full((COUNT,), (level + fraction) * scale)
    noise = NoiseKey.of(0, level, round(100 * fraction))
    out = fake_quantize(x, torch.tensor([scale]), None, -127, 127, noise=noise)
    error = float((out.double() - x.double()).mean())
    sigma = scale * math.sqrt(fraction * (1 - fraction))
    assert abs(error) <= 4 * sigma / math.sqrt(COUNT) + 2**-16 * scale


@pytest.mark.parametrize("floats", [True, False])
def test_stochastic_rounding_lands_only_on_the_levels_around_a_value(floats: bool) -> None:
    x = torch.randn(COUNT, generator=torch.Generator().manual_seed(0)) * 20
    key = NoiseKey.of(1, 2)
    noise = uniform_noise(x.shape, key) if floats else key
    out = fake_quantize(x, torch.ones(1), None, -127, 127, noise=noise)
    assert bool(((out == x.floor()) | (out == x.ceil())).all())
    assert bool((out == x.floor()).any()) and bool((out == x.ceil()).any())


def test_stochastic_rounding_keeps_whole_numbers() -> None:
    x = torch.arange(-127.0, 128.0)
    assert torch.equal(round_stochastic(x, uniform_noise(x.shape, NoiseKey.of(3))), x)
    assert torch.equal(fake_quantize(x, torch.ones(1), None, -127, 127, noise=NoiseKey.of(3)), x)


def test_noise_is_in_the_unit_interval_and_flat() -> None:
    noise = uniform_noise((1 << 16,), NoiseKey.of(5))
    assert float(noise.min()) >= 0 and float(noise.max()) < 1
    counts = torch.histc(noise, 16, 0, 1)
    assert bool(((counts - 4096).abs() < 5 * math.sqrt(4096)).all())


def test_same_key_gives_the_same_bits_whatever_the_global_generator_does() -> None:
    first = NoiseKey.of(0, 1, 2, 3).bits(torch.Size((7, 11)))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(first, NoiseKey.of(0, 1, 2, 3).bits(torch.Size((7, 11))))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("place", range(5), ids=["seed", "step", "index", "purpose", "rank"])
def test_any_part_of_the_key_changes_the_bits(place: int) -> None:
    key = [0, 10, 2, 0, -1]
    other = list(key)
    other[place] += 1
    bits = [NoiseKey.of(*item).bits(torch.Size((4096,))) for item in (key, other)]
    assert float((bits[0] == bits[1]).float().mean()) < 0.01
    correlation = torch.corrcoef(torch.stack(bits).double())[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(4096)


def test_swapped_parts_of_the_key_change_the_bits() -> None:
    size = torch.Size((4096,))
    assert not torch.equal(NoiseKey.of(0, 1).bits(size), NoiseKey.of(1, 0).bits(size))


def test_streams_of_one_step_and_steps_of_one_stream_are_uncorrelated() -> None:
    keys = [NoiseKey(NoiseKey.of(0, step).seed, stream) for step in range(20) for stream in range(6)]
    bits = torch.stack([key.bits(torch.Size((4096,))) for key in keys]).double()
    correlation = torch.corrcoef(bits).fill_diagonal_(0) * math.sqrt(4096)
    assert float(correlation.abs().max()) < 5.5 and float(correlation.std()) == pytest.approx(1, abs=0.05)
    means = (bits.mean(1) + 0.5) / (2**16 / math.sqrt(12) / math.sqrt(4096))
    assert float(means.std()) == pytest.approx(1, abs=0.25) and float(means.abs().max()) < 4.5


def test_neighbours_are_uncorrelated() -> None:
    bits = NoiseKey.of(7).bits(torch.Size((1 << 18,))).double()
    for lag in (1, 2, 3, 16, 1000):
        correlation = torch.corrcoef(torch.stack([bits[lag:], bits[:-lag]]))[0, 1]
        assert abs(float(correlation)) < 4.5 / 2**9, lag


def test_the_two_halves_of_a_word_are_the_first_and_the_second_value() -> None:
    """Stored values: another machine, device or release must draw the same."""
    assert NoiseKey(123456789, 7).bits(torch.Size((6,))).tolist() == [
        19512,
        -12320,
        27562,
        27265,
        -26042,
        14303,
    ]


@pytest.mark.parametrize("start, count", [(0, 10), (1, 10), (65_535, 4), (12_345, 70_001), (200_000, 1)])
def test_any_part_of_a_tensor_has_the_noise_of_the_whole(start: int, count: int) -> None:
    key = NoiseKey.of(1, 2)
    assert torch.equal(key.part(start, count), key.bits(torch.Size((200_001,)))[start : start + count])


def test_operations_of_pytorch_draw_the_same_bits() -> None:
    key = NoiseKey.of(3, 4)
    assert torch.equal(
        device_part(*key.words(), 99_999, torch.device("cpu")), key.bits(torch.Size((99_999,)))
    )


def test_nearest_rounds_half_to_even() -> None:
    assert round_nearest(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]
