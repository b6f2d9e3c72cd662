"""Quantized GRU cell: one step of a decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.cell import QuantRecurrent, gru_update
from qat.layers.sampling import sample


class QuantGRUCell(QuantRecurrent, nn.GRUCell):
    """`nn.GRUCell` on quantized weights, input and hidden state; the state that the update carries over stays float."""

    float_class = nn.GRUCell
    time_axis = -2
    sides = (("ih",), ("hh",))  # the reset gate stands between them

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Input `(N, I)` and hidden state `(N, H)` (None: zeros) -> next hidden state; or one row without `N`."""
        if not self.is_enabled:
            return super().forward(self.input_quantizer(input), hx)
        if hx is None:
            hx = input.new_zeros(*input.shape[:-1], self.hidden_size)
        with self.arithmetic(input) as mode:
            inputs = self.sums("ih", self.input_quantizer, mode)(input)
            recurrent = self.sums("hh", self.hidden_quantizer, mode)(hx)
            return gru_update(inputs, recurrent, hx).to(hx.dtype)

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Rows of the input or of the hidden state, `(1, N, I)` or `(1, N, H)`."""
        rows, hidden = cell_rows(self, x, x[1])
        rows, reads = (hidden, self.hidden_quantizer) if index else (rows, self.input_quantizer)
        return sample((reads(rows) if quantized else rows)[None], generator)


def cell_rows(layer: nn.RNNCellBase, x: Any, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Input `(N, I)` and hidden state `(N, H)` that a cell was called with, float32.

    Args:
        layer: the cell.
        x: recorded.
        hidden: of it; None is zeros.
    """
    rows = x[0].detach().float().reshape(-1, layer.input_size)
    if hidden is None:
        return rows, rows.new_zeros(len(rows), layer.hidden_size)
    return rows, hidden.detach().float().reshape(-1, layer.hidden_size)
