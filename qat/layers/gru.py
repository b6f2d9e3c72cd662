"""Quantized GRU over sequences."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qat.layers.cell import gru_update
from qat.layers.stack import QuantStack, States


class QuantGRU(QuantStack, nn.GRU):
    """`nn.GRU` on quantized weights, inputs and hidden states; the state that the update carries over stays float."""

    float_class = nn.GRU
    sides = (("ih",), ("hh",))  # the reset gate stands between them

    def update(self, inputs: Tensor, recurrent: Tensor, states: States) -> States:
        """Next hidden state."""
        return (gru_update(inputs, recurrent, states[0]),)

    def opened(self, hx: Any) -> States:
        """The one state."""
        return (hx,)

    def closed(self, states: States) -> Tensor:
        """The one state."""
        return states[0]
