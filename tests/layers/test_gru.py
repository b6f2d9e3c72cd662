"""A GRU over sequences: a loop of its cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qat.layers.gru import QuantGRU
from qat.layers.gru_cell import QuantGRUCell
from tests.layers.recurrent import FORMS, HIDDEN, built, forms


@forms
@torch.no_grad()
def test_one_direction_of_the_first_layer_is_a_loop_of_its_cell_bit_for_bit(form: str) -> None:
    model, x = built("gru", **FORMS[form])
    layer: Any = model.layer
    assert isinstance(layer, QuantGRU)
    cell: Any = QuantGRUCell.from_float(nn.GRUCell(13, HIDDEN), layer.layer_recipe)
    for side in ("ih", "hh"):
        for name in (f"weight_{side}", f"bias_{side}"):
            cell.get_parameter(name).copy_(layer.get_parameter(f"{name}_l0"))
        cell.weight_quantizers[f"weight_{side}"] = layer.weight_quantizers[f"weight_{side}_l0"]
    cell.input_quantizer, cell.hidden_quantizer = layer.input_quantizer, layer.hidden_quantizer
    hidden, outputs = model.states[0][0], []
    for frame in x.unbind(1):
        hidden = cell.eval()(frame, hidden)
        outputs.append(hidden)
    first = layer.of_layer(model.states, 0)
    assert torch.equal(layer.run_layer(0, x, first, None, "levels")[0][..., :HIDDEN], torch.stack(outputs, 1))


def test_its_products_keep_input_and_state_apart() -> None:
    model, _ = built("gru")
    names = [item.suffix for item in model.layer.products()]
    assert names == [".l0.ih", ".l0.hh", ".l1.ih", ".l1.hh"]
    assert all(item.groups == 2 and len(item.biases) == 2 for item in model.layer.products())
