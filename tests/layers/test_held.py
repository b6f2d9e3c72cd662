"""A loop over time quantizes each weight once, and computes what it did without."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from qat.layers.held import Held, held_weights
from qat.layers.weight import WeightQuantizer
from tests.layers.hosts import enabled, multiplying_kinds
from tests.layers.recurrent import built


def unrolled(cell: Any, x: Tensor, hidden: Tensor) -> Tensor:
    for _ in range(4):
        hidden = cell(x, hidden)
    return hidden


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_training_in_a_loop_has_the_same_values_and_gradients(rounding: str) -> None:
    model, x = built("gru_cell", bits=4, rounding=rounding, weight_observer="max")
    cell, found = model.train().layer, []
    for held in (False, True):
        cell.zero_grad()
        with held_weights(*([model] if held else [])):
            out = unrolled(cell, x, model.states[0])
        out.square().sum().backward()
        found.append([out.detach(), *(parameter.grad.clone() for parameter in cell.parameters())])
    assert torch.equal(found[0][0], found[1][0])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_weight_is_quantized_once_a_loop_and_anew_in_the_next() -> None:
    model, x = built("gru_cell")
    expected = unrolled(model.layer, x, model.states[0])
    with mock.patch.object(WeightQuantizer, "fake_quantize", autospec=True, side_effect=fake) as calls:
        with held_weights(model):
            assert torch.equal(unrolled(model.layer, x, model.states[0]), expected)
        assert calls.call_count == 2
        with held_weights(model), held_weights(model.layer):
            unrolled(model.layer, x, model.states[0])
        assert calls.call_count == 4
    model.layer.weight_hh.mul_(0.5)
    assert not torch.equal(unrolled(model.layer, x, model.states[0]), expected)


fake = WeightQuantizer.fake_quantize


@multiplying_kinds
def test_every_layer_computes_the_same_on_held_weights(layer_kind: str) -> None:
    model, x = enabled(layer_kind, 4)
    expected = model(x)
    with held_weights(model):
        assert torch.equal(model(x), expected)
        with torch.no_grad():
            levels = model(x)
        assert torch.equal(model(x), expected)
    with torch.no_grad():
        assert torch.equal(model(x), levels)


def test_what_is_held_depends_on_gradients_and_is_let_go_of_after_an_error() -> None:
    held, made = Held(), iter(range(9))
    assert held.first("a", lambda: next(made)) == held.first("a", lambda: next(made)) == 0
    with torch.no_grad():
        assert held.first("a", lambda: next(made)) == 1
    model = nn.Sequential(enabled("linear")[0].layer)
    with pytest.raises(ZeroDivisionError), held_weights(model):
        raise ZeroDivisionError
    assert model[0].weight_quantizer.held is None
