"""A GRU cell as PyTorch's."""

from __future__ import annotations

import torch
from torch import nn

from qat.layers.cell import gru_update
from tests.layers.recurrent import HIDDEN, built


@torch.no_grad()
def test_the_update_is_that_of_pytorch() -> None:
    cell, x, hidden = nn.GRUCell(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    inputs = x @ cell.weight_ih.T + cell.bias_ih
    recurrent = hidden @ cell.weight_hh.T + cell.bias_hh
    torch.testing.assert_close(gru_update(inputs, recurrent, hidden), cell(x, hidden), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_one_row_without_a_batch_and_no_state_are_as_in_a_batch() -> None:
    model, x = built("gru_cell")
    cell = model.layer
    assert torch.equal(cell(x[0]), cell(x)[0])
    assert torch.equal(cell(x), cell(x, torch.zeros(len(x), HIDDEN)))
    assert torch.equal(cell(x[0], model.states[0][0]), cell(x, model.states[0])[0])


@torch.no_grad()
def test_a_cell_without_bias() -> None:
    model, x = built("gru_cell")
    plain = nn.GRUCell(4, 3, bias=False)
    quantized = type(model.layer).from_float(plain, model.layer.layer_recipe)
    assert [item.biases for item in quantized.products()] == [[], []]
    for _, weight, quantizer in quantized.weights():
        quantizer.calibrate_(weight, "w")
    quantized.input_quantizer.set_range_(torch.tensor([0.02]), torch.tensor([128]))
    for child in quantized.children():
        for quantizer in [child] if hasattr(child, "set_enabled_") else child.values():
            quantizer.set_enabled_(True)
    rows = torch.randn(6, 4).clamp(-2, 2)
    torch.testing.assert_close(quantized.eval()(rows), plain(rows), atol=0.05, rtol=0)
