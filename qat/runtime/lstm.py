"""LSTM layers as an exported file holds them: padded input and sequence lengths, one node a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.lstm import QuantLSTM
from qat.layers.quantizer import Quantizer
from qat.runtime import operators
from qat.runtime.weights import StoredWeight, activation_range, integer_weight
from qat.system.errors import UserError


class ExportedLSTM(nn.Module):
    """A stack of LSTM layers, `(B, T, I)` and `frames (B,)` -> `(B, T, D H)`; padding comes out zero.

    Integer weights without dynamic input (a recipe without activation bits) are stored as int8 and computed in float.

    Args:
        layer: `nn.LSTM` or `QuantLSTM`, batch first and without projections.
    """

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        if not layer.batch_first or layer.proj_size:
            raise UserError("export: an LSTM must be batch_first and have no proj_size")
        integer = isinstance(layer, QuantLSTM) and layer.dynamic
        kind: Any = IntegerLSTMLayer if integer else FloatLSTMLayer
        self.layers = nn.ModuleList(kind(layer, index) for index in range(layer.num_layers))
        self.input_range = activation_range(getattr(layer, "input_quantizer", nn.Identity()))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """float32 `(B, T, I)` -> float32 `(B, T, D H)`."""
        valid = torch.arange(x.shape[1], device=x.device)[None, :] < frames[:, None]
        x = self.input_range(x) * valid.unsqueeze(-1)  # padding must not widen the dynamic range
        x, frames = x.transpose(0, 1), frames.to(torch.int32)
        for layer in self.layers:
            x = layer(x, frames).transpose(1, 2).flatten(2)
        return x.transpose(0, 1)


class FloatLSTMLayer(nn.Module):
    """One layer in float; the weights of a quantized one are stored as int8."""

    bias: Tensor

    def __init__(self, layer: nn.LSTM, index: int) -> None:
        super().__init__()
        self.weight = stack_weights(layer, f"weight_ih_l{index}")
        self.recurrent = stack_weights(layer, f"weight_hh_l{index}")
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


def matrices(layer: QuantLSTM, name: str) -> list[tuple[Tensor, Quantizer]]:
    """A matrix and its quantizer in each direction."""
    table = {key: (weight, quantizer) for key, weight, quantizer in layer.weights()}
    return [table[key] for key in directions(layer, name)]


def stack_weights(layer: nn.LSTM, name: str) -> nn.Module:
    """A float weight of one layer: a constant, or dequantized where the layer's weights are quantized."""
    if isinstance(layer, QuantLSTM) and layer.weight_quantizers:
        return StackedWeight([StoredWeight(*pair) for pair in matrices(layer, name)])
    parts = [gate_order(getattr(layer, key)) for key in directions(layer, name)]
    return FloatWeight(torch.stack(parts))


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
