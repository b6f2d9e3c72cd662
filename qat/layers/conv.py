"""Quantized convolutions."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from qat.layers.base import QuantLayer, device_of
from qat.layers.quantizer import Quantizer
from qat.recipe import LayerRecipe


class QuantConv(QuantLayer):
    """A convolution on a quantized input and weight, whose output is quantized to 8 bits.

    The integer kernel (`QLinearConv`) writes 8-bit outputs whatever the width of its input, so the output
    quantizer is always unsigned, 8 bits, with a zero point.
    """

    def add_quantizers(self, recipe: LayerRecipe) -> None:
        """Input and weight as usual, and the output."""
        super().add_quantizers(recipe)
        self.output_quantizer: nn.Module = nn.Identity()
        if recipe.activation_bits:
            output = replace(recipe, activation_bits=8, activation_signed=False)
            self.output_quantizer = Quantizer.for_activation(output, self.time_axis, device_of(self))

    def forward(self, input: Tensor) -> Tensor:
        """As the float convolution."""
        weight = self.weight_quantizer(self.weight)
        out = self._conv_forward(self.input_quantizer(input), weight, self.bias)  # type: ignore[operator]
        return self.output_quantizer(out)


class QuantConv1d(QuantConv, nn.Conv1d):
    """`nn.Conv1d` on `(B, C, T)`, quantized."""

    float_class = nn.Conv1d


class QuantConv2d(QuantConv, nn.Conv2d):
    """`nn.Conv2d` on `(B, C, F, T)`, quantized."""

    float_class = nn.Conv2d
