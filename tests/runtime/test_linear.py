"""What the exported forms of a linear layer keep of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qat.layers.blocks import BlockQuantizer
from qat.layers.frames import FrameQuantizer
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_, set_observing_
from qat.layers.swap import swap_
from qat.numerics.affine import dynamic_range
from qat.runtime.linear import FrameLinear, IntegerLinear, PackedLinear
from tests.layers.hosts import recipe


def quantized(**fields: Any) -> Any:
    """A calibrated linear layer `(5, 20)`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 5)).eval()
    swap_(model, recipe(8, **fields))
    calibrate_weights_(model)
    set_observing_(model, True)
    with torch.no_grad():
        model(torch.randn(30, 20))
    set_observing_(model, False)
    finish_calibration_(model)
    set_enabled_(model, True)
    return model[0]


@pytest.mark.parametrize("fields", [{}, {"activation_granularity": "frame"}])
@torch.no_grad()
def test_levels_times_scales_are_the_fake_quantized_weight(fields: dict[str, Any]) -> None:
    layer = quantized(**fields)
    form = FrameLinear(layer) if isinstance(layer.input_quantizer, FrameQuantizer) else IntegerLinear(layer)
    assert form.weight.dtype == torch.int8 and form.weight.shape == (20, 5)
    fake = layer.weight_quantizer(layer.weight)
    torch.testing.assert_close((form.weight * form.weight_scale).T, fake, rtol=1e-6, atol=1e-7)
    assert torch.equal(form.bias, layer.bias)


@torch.no_grad()
def test_two_levels_lie_in_a_byte_the_lower_first() -> None:
    layer = quantized(weight_bits=4, four_bit_linear="matmul_nbits")
    assert isinstance(layer.input_quantizer, BlockQuantizer)
    form = PackedLinear(layer)
    low, high = (form.weight & 15).int() - 8, (form.weight >> 4).int() - 8
    levels = torch.stack([low, high], -1).flatten(1)[:, :20]
    scale = layer.weight_quantizer.scale[:, None]
    torch.testing.assert_close(levels * scale, layer.weight_quantizer(layer.weight), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_range_of_the_file_is_the_dynamic_range_to_the_last_bit(bits: int) -> None:
    form = FrameLinear(quantized(activation_granularity="frame", activation_bits=bits))
    magnitudes = torch.logspace(-45, 38, 300)
    ends = torch.cat([magnitudes, -magnitudes, torch.zeros(2)])
    first, second = ends[torch.randint(len(ends), (2, 20_000), generator=torch.Generator().manual_seed(0))]
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    found = form.range_of(torch.relu(-low), torch.relu(high))
    for ours, expected in zip(found, dynamic_range(low, high, 2**bits - 1), strict=True):
        assert torch.equal(ours, expected)
