"""Removing weight_norm."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from qat.layers.state import (
    load_float_state_,
)
from qat.layers.swap import swap_
from qat.layers.weight_norm import remove_weight_norm_, strip_weight_norm
from tests.layers.hosts import Host, recipe


@pytest.mark.parametrize("style", ["parametrization", "hook"])
@pytest.mark.parametrize("dim", [0, 2])
def test_removing_weight_norm_changes_nothing(style: str, dim: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 6, 5, groups=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = Host((weight_norm if style == "parametrization" else old_weight_norm)(conv, dim=dim))
    x = torch.randn(2, 6, 20)
    for factor in model.parameters():
        factor.data.mul_(1.7)
    expected, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    plain = strip_weight_norm(state)
    assert remove_weight_norm_(model) == ["layer"]
    assert torch.equal(model(x), expected)
    assert plain.keys() == model.state_dict().keys()
    assert torch.equal(plain["layer.weight"], model.layer.weight)
    assert type(model.layer) is nn.Conv1d and swap_(model, recipe()).swapped == ["layer"]
    nn.init.zeros_(model.layer.weight)
    load_float_state_(model, state)
    assert torch.equal(model(x), expected)
