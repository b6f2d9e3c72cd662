"""Linear layers as an exported file holds them: on one range, on a range for each row, or packed to 4 bits.

They read `weight`, `weight_quantizer`, `input_quantizer` and `bias` of a layer, or of one product of a cell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.blocks import blocks_of
from qat.layers.linear import QuantLinear
from qat.layers.windows import matrix_of
from qat.numerics.affine import dynamic_range
from qat.runtime import operators
from qat.runtime.weights import ActivationRange, float_bias, integer_weight


class IntegerLinear(nn.Module):
    """`QuantLinear` on uint8 activations and int8 weights."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight, scale = integer_weight(layer.weight, layer.weight_quantizer)
        self.input_range = ActivationRange(layer.input_quantizer)
        self.register_buffer("weight", weight.t().contiguous())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", float_bias(layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> float32 `(..., O)`."""
        inputs = self.input_range
        levels = inputs.quantize(x)
        return operators.linear(
            levels, inputs.scale, inputs.zero_point, self.weight, self.weight_scale, self.bias
        )


class PackedLinear(nn.Module):
    """`QuantLinear` on 4-bit weights as they are stored, and int8 activations in blocks."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        levels, scale = integer_weight(layer.weight, layer.weight_quantizer)
        self.columns, self.block_size = layer.in_features, layer.input_quantizer.size
        codes = (blocks_of(levels, self.block_size) + 8).to(torch.uint8)
        self.register_buffer("weight", codes[..., 0::2] | (codes[..., 1::2] << 4))
        self.register_buffer("weight_scale", scale[:, None].expand(-1, codes.shape[1]).contiguous())
        self.register_buffer("bias", float_bias(layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> float32 `(..., O)`."""
        return operators.packed_linear(
            x, self.weight, self.weight_scale, self.bias, self.columns, self.block_size
        )


class FrameLinear(nn.Module):
    """`QuantLinear` on uint8 activations with a range for each frame."""

    weight: Tensor
    weight_scale: Tensor
    zero_weight: Tensor
    one: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        levels, scale = integer_weight(layer.weight, layer.weight_quantizer)
        matrix = matrix_of(levels)
        self.quant_max = layer.input_quantizer.quant_max
        self.register_buffer("weight", matrix.t().contiguous())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("zero_weight", -(matrix.sum(1).float() * scale))
        self.register_buffer("bias", float_bias(layer.bias))
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("zero", torch.zeros((), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> `(..., O)`."""
        return self.product(x, *extremes(x))

    def product(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """`FrameQuantizer.linear`, node by node; rows `(..., I)` from `low` to `high`, `(..., 1)` each."""
        scale, zero_point = (item.flatten(0, -2) for item in dynamic_range(low, high, self.quant_max))
        levels = operators.quantize(
            x.flatten(0, -2), scale.flatten(), zero_point.to(torch.uint8).flatten(), quant_max=self.quant_max
        )
        out = operators.linear(levels, self.one, self.zero, self.weight, self.weight_scale, None)
        rest = (zero_point * scale) * self.zero_weight
        rest = rest if self.bias is None else rest + self.bias
        return (out * scale + rest).unflatten(0, x.shape[:-1])


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each row, `(..., I)` -> `(..., 1)`."""
    # after a reshape the runtime leaves the frames contiguous: reduced in a tenth of the time
    frames = x.flatten(0, -2)
    low, high = (end.unflatten(0, x.shape[:-1]) for end in (frames.amin(-1, True), frames.amax(-1, True)))
    return low, high
