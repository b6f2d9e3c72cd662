"""A linear layer in its three forms: one range, by frame, in blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qat.layers.activation import ActivationQuantizer
from qat.layers.blocks import BlockQuantizer
from qat.layers.frames import FrameQuantizer
from qat.layers.linear import QuantLinear
from qat.layers.quantizer import Unquantized
from qat.layers.state import set_enabled_
from qat.layers.swap import swap_
from tests.layers.hosts import Host, calibrated, recipe

FORMS: dict[str, tuple[dict[str, Any], type[nn.Module]]] = {
    "one range": ({}, ActivationQuantizer),
    "by frame": ({"activation_granularity": "frame"}, FrameQuantizer),
    "in blocks": ({"weight_bits": 4, "four_bit_linear": "matmul_nbits"}, BlockQuantizer),
    "weights only": ({"activation_bits": 0}, Unquantized),
}


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_on_levels_is_the_fake_quantized_product(form: str) -> None:
    fields, kind = FORMS[form]
    torch.manual_seed(0)
    model, x = Host(nn.Linear(20, 6)).eval(), torch.randn(2, 7, 20)
    swap_(model, recipe(8, **fields))
    layer: Any = calibrated(model, x).layer
    assert isinstance(layer, QuantLinear) and type(layer.input_quantizer) is kind
    with torch.no_grad():
        plain = layer(x)
        set_enabled_(model, True)
        exact = layer(x)
    fake = layer(x)  # a gradient is possible, so the differentiable path
    torch.testing.assert_close(exact, fake, atol=1e-4, rtol=1e-5)
    assert not torch.equal(exact, plain)


@torch.no_grad()
def test_an_older_checkpoint_switches_blocks_with_the_weights() -> None:
    """Before blocks had a quantizer of their own, the weights' switch was theirs."""
    model, x = Host(nn.Linear(20, 6)).eval(), torch.randn(2, 7, 20)
    swap_(model, recipe(8, weight_bits=4, four_bit_linear="matmul_nbits"))
    set_enabled_(calibrated(model, x), True)
    expected = model(x)
    state = {key: value for key, value in model.state_dict().items() if ".input_quantizer." not in key}
    other = Host(nn.Linear(20, 6)).eval()
    swap_(other, recipe(8, weight_bits=4, four_bit_linear="matmul_nbits"))
    other.load_state_dict(state)
    assert torch.equal(other(x), expected)
