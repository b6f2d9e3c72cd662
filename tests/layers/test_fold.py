"""Folding a BatchNorm into the layer before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layers.fold import fold_batch_norm_
from qat.layers.swap import swap_
from qat.system.errors import UserError
from tests.layers.hosts import recipe


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("layer_kind", ["linear", "conv1d"])
@torch.no_grad()
def test_folding_a_norm_keeps_the_function(
    layer_kind: str, bias: bool, affine: bool, quantized: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 7, bias=bias) if layer_kind == "linear" else nn.Conv1d(5, 7, 3, bias=bias)
    norm, x = (
        nn.BatchNorm1d(7, affine=affine),
        torch.randn(4, 5) if layer_kind == "linear" else torch.randn(4, 5, 9),
    )
    for values in (norm.running_mean, *norm.parameters()):
        values.normal_()
    norm.running_var.uniform_(0.1, 3)
    model = nn.Sequential(layer, norm).double().eval()
    expected = model(x.double())
    if quantized:
        swap_(model, recipe())
    fold_batch_norm_(model[0], model[1])
    torch.testing.assert_close(model[0](x.double()), expected, atol=1e-12, rtol=1e-12)


def test_folding_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be folded into a LSTM"):
        fold_batch_norm_(nn.LSTM(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UserError, match="no running statistics"):
        fold_batch_norm_(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(UserError, match="3 channels does not fit 2 outputs"):
        fold_batch_norm_(nn.Linear(2, 2), nn.BatchNorm1d(3))
