"""An LSTM cell as PyTorch's."""

from __future__ import annotations

import torch
from torch import nn

from qat.layers.cell import lstm_update
from tests.layers.recurrent import HIDDEN, built


@torch.no_grad()
def test_the_update_is_that_of_pytorch() -> None:
    cell, x = nn.LSTMCell(4, 3), torch.randn(5, 4)
    state = torch.randn(5, 3), torch.randn(5, 3)
    inputs = x @ cell.weight_ih.T + cell.bias_ih
    recurrent = state[0] @ cell.weight_hh.T + cell.bias_hh
    for ours, theirs in zip(lstm_update(inputs, recurrent, state[1]), cell(x, state), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_one_row_without_a_batch_and_no_state_are_as_in_a_batch() -> None:
    model, x = built("lstm_cell")
    cell, zeros = model.layer, torch.zeros(len(x), HIDDEN)
    for part in (0, 1):
        assert torch.equal(cell(x[0])[part], cell(x)[part][0])
        assert torch.equal(cell(x)[part], cell(x, (zeros, zeros))[part])
