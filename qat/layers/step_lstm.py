"""An LSTM for stepwise use, such as a language model's in a beam search, plain and quantized."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qat.layers.base import adopt
from qat.layers.cell import lstm_update
from qat.layers.stack import QuantStack, States

Hidden = tuple[Tensor, Tensor]


class StepLSTM(nn.LSTM):
    """`nn.LSTM`, batch first and forward, that can be called one frame at a time; the state dict is the same.

    Quantized, rows and frames are independent of each other, unlike those of `QuantLSTM`, whose kernel takes ranges
    over utterances.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L.
        bias: whether there are biases.
        dropout: between layers, in training.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first=True, dropout=dropout)

    @classmethod
    def from_lstm(cls, layer: nn.LSTM) -> StepLSTM:
        """The same layer, on the very Parameters of `layer`.

        Args:
            layer: batch first, forward, without projection.
        """
        assert layer.batch_first and not layer.bidirectional and not layer.proj_size
        return adopt(cls, layer)

    def step(self, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """One frame.

        Args:
            x: `(N, I)`.
            state: hidden and cell state, `(L, N, H)` each; None is zeros.

        Returns:
            Output `(N, H)`, and the next states.
        """
        output, state = self(x.unsqueeze(1), state)
        return output.squeeze(1), state


class QuantStepLSTM(QuantStack, StepLSTM):
    """`StepLSTM` on quantized weights, inputs and hidden states; the cell state stays float."""

    float_class = StepLSTM
    state_count = 2

    def update(self, inputs: Tensor, recurrent: Tensor, states: States) -> States:
        """Next hidden and cell state."""
        return lstm_update(inputs, recurrent, states[1])

    def opened(self, hx: Any) -> States:
        """As it is."""
        return tuple(hx)

    def closed(self, states: States) -> Hidden:
        """As it is."""
        hidden, cell = states
        return hidden, cell
