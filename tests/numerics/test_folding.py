"""BatchNorm folding: one layer that equals two, computed in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.numerics.folding import fold_batch_norm


def norm(channels: int, affine: bool = True) -> nn.BatchNorm1d:
    """A BatchNorm in eval mode with statistics of its own."""
    generator = torch.Generator().manual_seed(1)
    made = nn.BatchNorm1d(channels, eps=1e-3, affine=affine).eval()
    assert made.running_mean is not None and made.running_var is not None
    made.running_mean.copy_(torch.randn(channels, generator=generator))
    made.running_var.copy_(torch.rand(channels, generator=generator) + 0.1)
    if affine:
        with torch.no_grad():
            made.weight.copy_(torch.randn(channels, generator=generator))
            made.bias.copy_(torch.randn(channels, generator=generator))
    return made


@torch.no_grad()
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_folded_layer_equals_the_layer_and_its_norm(kind: str, bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    layer: nn.Module = nn.Linear(6, 4, bias=bias) if kind == "linear" else nn.Conv1d(6, 4, 3, bias=bias)
    x = torch.randn(5, 6) if kind == "linear" else torch.randn(5, 6, 9)
    layer, batch_norm = layer.double(), norm(4, affine).double()
    expected = batch_norm(layer(x.double()))
    statistics = (batch_norm.running_mean, batch_norm.running_var, batch_norm.weight, batch_norm.bias)
    weight, shift = fold_batch_norm(layer.weight, layer.bias, *statistics, batch_norm.eps)
    x = x.double()
    found = (
        nn.functional.linear(x, weight, shift) if kind == "linear" else nn.functional.conv1d(x, weight, shift)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_folding_keeps_the_type_of_the_weight_and_rounds_once() -> None:
    torch.manual_seed(0)
    weight, batch_norm = torch.randn(4, 6), norm(4)
    arguments = (batch_norm.running_mean, batch_norm.running_var, batch_norm.weight, batch_norm.bias)
    single = fold_batch_norm(weight, None, *arguments, batch_norm.eps)
    double = fold_batch_norm(weight.double(), None, *arguments, batch_norm.eps)
    for one, two in zip(single, double, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, two.float())


def test_a_norm_that_changes_nothing_leaves_the_layer_as_it_is() -> None:
    weight, bias = torch.randn(4, 6), torch.randn(4)
    folded = fold_batch_norm(weight, bias, torch.zeros(4), torch.ones(4), None, None, 0.0)
    assert torch.equal(folded[0], weight) and torch.equal(folded[1], bias)
