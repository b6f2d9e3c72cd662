"""Quantized LSTM cell: one step of a decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.cell import QuantRecurrent, lstm_update
from qat.layers.gru_cell import cell_rows
from qat.layers.sampling import sample

Hidden = tuple[Tensor, Tensor]


class QuantLSTMCell(QuantRecurrent, nn.LSTMCell):
    """`nn.LSTMCell` on quantized weights, input and hidden state; the cell state stays float."""

    float_class = nn.LSTMCell
    time_axis = -2

    def forward(self, input: Tensor, hx: Hidden | None = None) -> Hidden:
        """Input `(N, I)`, hidden and cell state `(N, H)` (None: zeros) -> next states; or one row without `N`."""
        if not self.is_enabled:
            return super().forward(self.input_quantizer(input), hx)
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = zeros, zeros
        with self.arithmetic(input) as mode:
            inputs = self.sums("ih", self.input_quantizer, mode)(input)
            recurrent = self.sums("hh", self.hidden_quantizer, mode)(hx[0])
            hidden, cell = lstm_update(inputs, recurrent, hx[1])
        return hidden.to(hx[0].dtype), cell.to(hx[1].dtype)

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Rows of input and hidden state side by side, `(1, N, I + H)`."""
        rows, hidden = cell_rows(self, x, None if x[1] is None else x[1][0])
        if quantized:
            rows, hidden = self.input_quantizer(rows), self.hidden_quantizer(hidden)
        return sample(torch.cat([rows, hidden], dim=1)[None], generator)
