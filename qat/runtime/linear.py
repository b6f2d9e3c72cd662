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
    one: Tensor
    bias: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        levels, scale = integer_weight(layer.weight, layer.weight_quantizer)
        matrix = matrix_of(levels)
        self.quant_max = layer.input_quantizer.quant_max
        self.register_buffer("weight", matrix.t().contiguous())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", float_bias(layer.bias))
        self.register_buffer("one", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> `(..., O)`."""
        scale, zero_point = self.range_of(torch.relu(-x.amin(-1)), torch.relu(x.amax(-1)))
        scale, zero_point = scale.unsqueeze(-1), zero_point.unsqueeze(-1)
        return self.product(self.quantize(x, scale, zero_point), scale, zero_point)

    def range_of(self, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """`dynamic_range` of rows that reach `below` and `above` zero, in fewer nodes: scale and zero point, as both.

        Args:
            below: magnitude of the smallest value, at least 0, any shape; a last axis of one would be slow.
            above: the largest value, likewise.
        """
        scale = (above + below) / self.quant_max
        scale = torch.where(scale == 0, self.one, scale)
        return scale, (below / scale).round().clamp(max=self.quant_max)

    def quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Rows `(..., I)` on levels, uint8; their scale and zero point `(..., 1)` float32."""
        return operators.quantize(x, scale, zero_point.to(torch.uint8), quant_max=self.quant_max)

    def product(self, levels: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """`FrameQuantizer.linear`: levels `(..., I)`, scale and zero point `(..., 1)` -> `(..., O)`."""
        return operators.frame_linear(levels, scale, zero_point, self.weight, self.weight_scale, self.bias)
