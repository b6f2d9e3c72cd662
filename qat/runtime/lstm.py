"""LSTM layers as an exported file holds them: padded input and sequence lengths, one node a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.lstm import QuantLSTM
from qat.layers.weight import WeightQuantizer
from qat.runtime import operators
from qat.runtime.weights import StoredWeight, activation_range, integer_weight
from qat.system.errors import UserError


class ExportedLSTM(nn.Module):
    """A stack of LSTM layers, `(B, T, I)` and `frames (B,)` -> `(B, T, D H)`; padding comes out zero.

    Args:
        layer: `nn.LSTM` or `QuantLSTM`, batch first and without projections.
        layers: its stacked layers in exported form.
        input_range: of the whole stack's input.

    Raises:
        UserError: another kind of LSTM.
    """

    def __init__(self, layer: nn.LSTM, layers: Iterable[nn.Module], input_range: nn.Module) -> None:
        super().__init__()
        if not layer.batch_first or layer.proj_size:
            raise UserError("export: an LSTM must be batch_first and have no proj_size")
        self.layers, self.input_range = nn.ModuleList(layers), input_range

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """float32 `(B, T, I)` -> float32 `(B, T, D H)`."""
        valid = torch.arange(x.shape[1], device=x.device)[None, :] < frames[:, None]
        x = self.input_range(x) * valid.unsqueeze(-1)  # padding must not widen the dynamic range
        x, frames = x.transpose(0, 1), frames.to(torch.int32)
        for layer in self.layers:
            x = layer(x, frames).transpose(1, 2).flatten(2)
        return x.transpose(0, 1)


class FloatLSTM(ExportedLSTM):
    """`nn.LSTM` in float."""

    def __init__(self, layer: nn.LSTM) -> None:
        stacked = (FloatLSTMLayer(layer, index, float_weight) for index in range(layer.num_layers))
        super().__init__(layer, stacked, nn.Identity())


class QuantizedLSTM(ExportedLSTM):
    """`QuantLSTM` on integers.

    Without dynamic input (a recipe without activation bits) its weights are stored as int8 and computed in float.
    """

    def __init__(self, layer: QuantLSTM) -> None:
        stored = stored_weight if layer.weight_quantizers else float_weight
        stacked = (
            IntegerLSTMLayer(layer, index) if layer.dynamic else FloatLSTMLayer(layer, index, stored)
            for index in range(layer.num_layers)
        )
        super().__init__(layer, stacked, activation_range(layer.input_quantizer))


class FloatLSTMLayer(nn.Module):
    """One layer in float.

    Args:
        layer: the stack.
        index: in it.
        weight_of: gives a weight's module by the layer and the parameter's name: `float_weight` or `stored_weight`.
    """

    bias: Tensor

    def __init__(self, layer: Any, index: int, weight_of: Callable[[Any, str], nn.Module]) -> None:
        super().__init__()
        self.weight = weight_of(layer, f"weight_ih_l{index}")
        self.recurrent = weight_of(layer, f"weight_hh_l{index}")
        self.register_buffer("bias", stack_biases(layer, index))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """`(T, B, I)` -> `(T, D, B, H)`."""
        return operators.lstm(x, self.weight(), self.recurrent(), self.bias, frames)


class IntegerLSTMLayer(nn.Module):
    """One layer on int8 weights with dynamic uint8 input and state."""

    weight: Tensor
    weight_scale: Tensor
    recurrent: Tensor
    recurrent_scale: Tensor
    bias: Tensor

    def __init__(self, layer: QuantLSTM, index: int) -> None:
        super().__init__()
        for kind, name in (("weight", f"weight_ih_l{index}"), ("recurrent", f"weight_hh_l{index}")):
            pairs = [integer_weight(weight, quantizer) for weight, quantizer in matrices(layer, name)]
            self.register_buffer(kind, torch.stack([gate_order(item).t() for item, _ in pairs]).contiguous())
            self.register_buffer(f"{kind}_scale", torch.stack([gate_order(scale) for _, scale in pairs]))
        self.register_buffer("bias", stack_biases(layer, index))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """`(T, B, I)` -> `(T, D, B, H)`."""
        return operators.integer_lstm(
            x, self.weight, self.weight_scale, self.recurrent, self.recurrent_scale, self.bias, frames
        )


class StackedWeight(nn.Module):
    """A weight of one layer `(D, 4H, ...)`, gates in the order i, o, f, c."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self) -> Tensor:
        """The float32 weight."""
        return torch.stack([gate_order(part()) for part in self.parts])


class FloatWeight(nn.Module):
    """A float weight, called like a stored one."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().float())

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


def directions(layer: nn.LSTM, name: str) -> list[str]:
    """The parameter's name in each direction: `weight_ih_l0` (and `weight_ih_l0_reverse`)."""
    return [name, f"{name}_reverse"] if layer.bidirectional else [name]


def matrices(layer: QuantLSTM, name: str) -> list[tuple[Tensor, WeightQuantizer]]:
    """A matrix and its quantizer in each direction."""
    table = {key: (weight, quantizer) for key, weight, quantizer in layer.weights()}
    return [table[key] for key in directions(layer, name)]


def float_weight(layer: nn.LSTM, name: str) -> nn.Module:
    """A weight of one layer as a constant."""
    parts = [gate_order(getattr(layer, key)) for key in directions(layer, name)]
    return FloatWeight(torch.stack(parts))


def stored_weight(layer: QuantLSTM, name: str) -> nn.Module:
    """A quantized weight of one layer, dequantized where it is used."""
    return StackedWeight([StoredWeight(*pair) for pair in matrices(layer, name)])


def stack_biases(layer: nn.LSTM, index: int) -> Tensor:
    """Both biases of one layer, `(D, 8H)`; zeros where it has none."""
    if not layer.bias:
        return torch.zeros(2 if layer.bidirectional else 1, 8 * layer.hidden_size)
    kinds = [directions(layer, f"bias_{kind}_l{index}") for kind in ("ih", "hh")]
    rows = [torch.stack([gate_order(getattr(layer, key)) for key in keys]) for keys in kinds]
    return torch.cat(rows, dim=1).detach().float()


def gate_order(rows: Tensor) -> Tensor:
    """Rows `(4H, ...)` from PyTorch's gates i, f, c, o to ONNX's i, o, f, c."""
    i, f, c, o = rows.chunk(4)
    return torch.cat([i, o, f, c])
