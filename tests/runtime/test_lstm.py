"""An exported LSTM: gates in ONNX's order, padding zero, weights constant or stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qat.layer_recipe import LayerRecipe
from qat.layers.swap import quantize_layer
from qat.runtime.lstm import (
    FloatLSTM,
    FloatLSTMLayer,
    FloatWeight,
    IntegerLSTMLayer,
    QuantizedLSTM,
    StackedWeight,
    gate_order,
    stack_biases,
)
from qat.system.errors import UserError
from tests.runtime.conftest import SAFE


def test_gates_come_in_the_order_of_onnx() -> None:
    assert gate_order(torch.arange(8)).tolist() == [0, 1, 6, 7, 2, 3, 4, 5]


@pytest.mark.parametrize(("bidirectional", "directions"), [(False, 1), (True, 2)])
def test_biases_of_both_directions_lie_side_by_side_and_are_zero_where_there_are_none(
    bidirectional: bool, directions: int
) -> None:
    rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional)
    found = stack_biases(rnn, 0)
    assert found.shape == (directions, 32)
    assert torch.equal(found[0], torch.cat([gate_order(rnn.bias_ih_l0), gate_order(rnn.bias_hh_l0)]))
    without = nn.LSTM(3, 4, batch_first=True, bias=False, bidirectional=bidirectional)
    assert torch.equal(stack_biases(without, 0), torch.zeros(directions, 32))


@pytest.mark.parametrize(
    ("recipe", "layer_class", "weight_class"),
    [
        ({}, IntegerLSTMLayer, torch.Tensor),
        ({"activation_bits": None}, FloatLSTMLayer, StackedWeight),
        ({"weight_bits": None}, FloatLSTMLayer, FloatWeight),
    ],
)
def test_the_recipe_decides_what_a_stacked_layer_computes_on(
    recipe: dict[str, int | None], layer_class: type[nn.Module], weight_class: type
) -> None:
    quant = quantize_layer(nn.LSTM(3, 4, 2, batch_first=True), LayerRecipe(**{**SAFE, **recipe}))
    for _, weight, quantizer in quant.weights():
        quantizer.calibrate_(weight, "w")
        quantizer.set_enabled_(True)
    exported = QuantizedLSTM(quant.eval())
    assert len(exported.layers) == 2 and all(type(item) is layer_class for item in exported.layers)
    assert all(isinstance(item.weight, weight_class) for item in exported.layers)


def test_an_lstm_that_the_graph_cannot_hold_is_refused() -> None:
    for rnn in (nn.LSTM(3, 4), nn.LSTM(3, 4, batch_first=True, proj_size=2)):
        with pytest.raises(UserError, match="must be batch_first and have no proj_size"):
            FloatLSTM(rnn)
