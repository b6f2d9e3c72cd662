"""Quantized linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer
from qat.layers.blocks import block_linear, block_size, fake_quantize_blocks
from qat.layers.frames import FrameQuantizer, frame_linear
from qat.layers.integer import activation_levels, computes_integers, weight_levels
from qat.layers.quantizer import Quantizer


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` on a quantized input and weight.

    The bias stays float, as in the integer kernel. With 4-bit weights, 8-bit activations and the recipe's
    `four_bit_linear: matmul_nbits` the input is quantized in blocks on the fly and has no static range.
    """

    float_class = nn.Linear
    time_axis = -2

    def add_quantizers(self, recipe: LayerRecipe) -> None:
        """As usual; no static range for an input in blocks."""
        super().add_quantizers(recipe)
        if recipe.packs_linear:
            self.input_quantizer = nn.Identity()

    @property
    def block_size(self) -> int:
        """Columns that share an activation scale; 0 where the input has a static range, or the layer is off."""
        quantizer = self.weight_quantizer
        if not (self.layer_recipe.packs_linear and isinstance(quantizer, Quantizer) and quantizer.is_enabled):
            return 0
        return block_size(self.in_features)

    def quantize_input(self, x: Tensor) -> Tensor:
        """By the static range, or in blocks."""
        return fake_quantize_blocks(x, self.block_size) if self.block_size else self.input_quantizer(x)

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` -> `(..., out_features)`; evaluated without a gradient, as the integer kernel."""
        if computes_integers(self):
            return self._forward_integers(input)
        if self.block_size and not (self.training or torch.is_grad_enabled()):
            return self._forward_blocks(input)
        return F.linear(self.quantize_input(input), self.weight_quantizer(self.weight), self.bias)

    def _forward_blocks(self, x: Tensor) -> Tensor:
        """`MatMulNBits`: whole-number sums in each block, float sums of the blocks, float bias."""
        assert isinstance(self.weight_quantizer, Quantizer)
        with torch.autocast(x.device.type, enabled=False):
            weight, scale = weight_levels(self.weight, self.weight_quantizer)
            out = block_linear(x.float(), weight, scale, self.block_size)
            return (out if self.bias is None else out.add_(self.bias)).to(x.dtype)

    def _forward_integers(self, x: Tensor) -> Tensor:
        """`MatMulIntegerToFloat`: whole-number sums, one rescaling, float bias."""
        inputs = self.input_quantizer
        assert isinstance(inputs, Quantizer) and isinstance(self.weight_quantizer, Quantizer)
        with torch.autocast(x.device.type, enabled=False):
            weight, scale = weight_levels(self.weight, self.weight_quantizer)
            if isinstance(inputs, FrameQuantizer):
                return frame_linear(x, inputs, weight, scale, self.bias).to(x.dtype)
            out = F.linear(activation_levels(x, inputs), weight).mul_(inputs.positive_scale() * scale)
            return (out if self.bias is None else out.add_(self.bias)).to(x.dtype)
