"""Channels that say nothing."""

from __future__ import annotations

import torch
from torch import nn

from qat.layers.state import (
    set_enabled_,
)
from qat.layers.swap import swap_
from tests.layers.hosts import Host, calibrated, recipe


@torch.no_grad()
def test_a_dead_channel_between_whole_steps_still_has_a_bias() -> None:
    layer = nn.Linear(6, 2)
    layer.weight[0] = 0.0
    model = Host(layer).eval()
    swap_(model, recipe(2, activation_bits=8))
    x = torch.randn(3, 6)
    calibrated(model, x)
    set_enabled_(model, True)
    out = model(x)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[:, 0], layer.bias[0].expand(3), atol=0.02, rtol=0)
