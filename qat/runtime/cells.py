"""Recurrent cells as an exported file holds them: one step of all layers, on `MatMulIntegerToFloat` products.

A search calls the file once a step and carries the states itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.cell import QuantRecurrent, gru_update, lstm_update
from qat.layers.frames import FrameQuantizer
from qat.layers.quantizer import Unquantized
from qat.runtime.linear import FrameLinear, IntegerLinear
from qat.runtime.lstm import FloatWeight
from qat.runtime.weights import StoredWeight, float_bias

Hidden = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Side:
    """One product of a cell, as the exported forms of a linear layer read it.

    Args:
        weight: `(G H, I)`.
        bias: `(G H,)`, or None.
        weight_quantizer: `Unquantized` where the weight stays float.
        input_quantizer: of what is multiplied; likewise.
    """

    weight: Tensor
    bias: Tensor | None
    weight_quantizer: Any
    input_quantizer: Any


class PartlyFloatLinear(nn.Module):
    """A product of which one side or both are float: stored so, computed in float.

    Activations are rounded by the quantizer's own float arithmetic, as in `PartlyQuantized`.
    """

    bias: Tensor | None

    def __init__(self, side: Side) -> None:
        super().__init__()
        plain = isinstance(side.weight_quantizer, Unquantized)
        self.weight = FloatWeight(side.weight) if plain else StoredWeight(side.weight, side.weight_quantizer)
        self.input_quantizer = side.input_quantizer
        self.register_buffer("bias", float_bias(side.bias))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> `(..., G H)`."""
        return F.linear(self.input_quantizer(x), self.weight(), self.bias)


def exported_product(layer: Any, name: str, quantizer: Any) -> nn.Module:
    """One product of a plain or quantized recurrent layer, with its bias.

    Args:
        layer: the cell or stack.
        name: of the matrix, without `weight_`.
        quantizer: of what it multiplies.
    """
    weights: Any = layer.weight_quantizers if isinstance(layer, QuantRecurrent) else {}
    key = f"weight_{name}"
    bias = layer.get_parameter(f"bias_{name}") if layer.bias else None
    side = Side(layer.get_parameter(key), bias, weights[key] if key in weights else Unquantized(), quantizer)
    if isinstance(quantizer, Unquantized) or key not in weights:
        return PartlyFloatLinear(side)
    return FrameLinear(side) if isinstance(quantizer, FrameQuantizer) else IntegerLinear(side)


def both_products(layer: Any, suffix: str = "", above: bool = False) -> tuple[nn.Module, nn.Module]:
    """The products of a cell, of its input and of its hidden state.

    Args:
        layer: plain or quantized.
        suffix: of the parameters' names.
        above: the input is the hidden state of the layer below.
    """
    inputs, hidden = Unquantized(), Unquantized()
    if isinstance(layer, QuantRecurrent):
        inputs, hidden = layer.input_quantizer, layer.hidden_quantizer
    reads = hidden if above else inputs
    return exported_product(layer, f"ih{suffix}", reads), exported_product(layer, f"hh{suffix}", hidden)


class ExportedGRUCell(nn.Module):
    """`nn.GRUCell` or `QuantGRUCell`."""

    def __init__(self, layer: Any, suffix: str = "", above: bool = False) -> None:
        super().__init__()
        self.hidden_size = layer.hidden_size
        self.inputs, self.recurrent = both_products(layer, suffix, above)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """float32 `(N, I)`, `(N, H)` -> `(N, H)`."""
        hidden = x.new_zeros(x.shape[0], self.hidden_size) if hx is None else hx
        return gru_update(self.inputs(x), self.recurrent(hidden), hidden)


class ExportedLSTMCell(nn.Module):
    """`nn.LSTMCell` or `QuantLSTMCell`, or one layer of a stack."""

    def __init__(self, layer: Any, suffix: str = "", above: bool = False) -> None:
        super().__init__()
        self.hidden_size = layer.hidden_size
        self.inputs, self.recurrent = both_products(layer, suffix, above)

    def forward(self, x: Tensor, hx: Hidden | None = None) -> Hidden:
        """float32 `(N, I)` and states `(N, H)` -> next states."""
        zeros = x.new_zeros(x.shape[0], self.hidden_size)
        hidden, cell = hx or (zeros, zeros)
        return lstm_update(self.inputs(x), self.recurrent(hidden), cell)


class ExportedStepLSTM(nn.Module):
    """One step of a `StepLSTM` or `QuantStepLSTM`, all layers.

    Attributes:
        num_layers: L.
        hidden_size: H.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = layer.num_layers, layer.hidden_size
        self.cells = nn.ModuleList(
            ExportedLSTMCell(layer, f"_l{index}", index > 0) for index in range(layer.num_layers)
        )

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(N, I)` and states `(L, N, H)` -> output `(N, H)` and next states `(L, N, H)`."""
        states = []
        for layer, old in zip(self.cells, zip(hidden.unbind(0), cell.unbind(0), strict=True), strict=True):
            states.append(layer(x, old))
            x = states[-1][0]
        return x, torch.stack([new for new, _ in states]), torch.stack([new for _, new in states])

    def step(self, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """As `StepLSTM.step`: `(N, I)` and both states -> output `(N, H)` and next states."""
        zeros = x.new_zeros(self.num_layers, x.shape[0], self.hidden_size)
        output, *states = self(x, *(state or (zeros, zeros)))
        return output, (states[0], states[1])
