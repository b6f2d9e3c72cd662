"""Quantized convolutions."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer, device_of
from qat.layers.frames import FrameQuantizer, by_frame, frame_linear, matrix_of, windows_of
from qat.layers.integer import (
    activation_levels,
    bias_levels,
    computes_integers,
    weight_levels,
)
from qat.layers.quantizer import Quantizer
from qat.numerics.affine import along, centred_levels


class QuantConv(QuantLayer):
    """A convolution on a quantized input and weight, whose output is quantized to 8 bits.

    The integer kernel (`QLinearConv`) writes 8-bit outputs whatever the width of its input, so the output
    quantizer is always unsigned, 8 bits, with a zero point. (Where windows have own ranges the output is float.)
    """

    def add_quantizers(self, recipe: LayerRecipe) -> None:
        """Input and weight as usual, and the output."""
        super().add_quantizers(recipe)
        self.output_quantizer: nn.Module = nn.Identity()
        if recipe.activation_bits and not by_frame(self):
            output = replace(recipe, activation_bits=8, activation_signed=False)
            self.output_quantizer = Quantizer.for_activation(output, self.time_axis, device_of(self))

    def forward(self, input: Tensor) -> Tensor:
        """As the float convolution; evaluated without a gradient, bit for bit as the integer kernel."""
        if isinstance(self.input_quantizer, FrameQuantizer) and self.input_quantizer.is_enabled:
            return self._forward_frames(input, self.input_quantizer)
        if computes_integers(self):
            return self._forward_integers(input)
        weight = self.weight_quantizer(self.weight)
        out = self._conv_forward(self.input_quantizer(input), weight, self.bias)  # type: ignore[operator]
        return self.output_quantizer(out)

    def _forward_frames(self, x: Tensor, inputs: FrameQuantizer) -> Tensor:
        """As a linear layer on the windows, each with a range of its own; the output stays float."""
        rows, weights = windows_of(self, x), self.weight_quantizer  # type: ignore[arg-type]
        if not computes_integers(self):
            out = F.linear(inputs(rows), matrix_of(weights(self.weight)), self.bias)  # type: ignore[arg-type]
            return out.transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            weight, scale = weight_levels(self.weight, weights)  # type: ignore[arg-type]
            out = frame_linear(rows, inputs, matrix_of(weight), scale, self.bias)  # type: ignore[arg-type]
            return out.transpose(1, 2).to(x.dtype)

    def quantize_input(self, x: Tensor) -> Tensor:
        """By the static range; windows that have ranges of their own are quantized one by one."""
        return x if by_frame(self) else self.input_quantizer(x)

    def _forward_integers(self, x: Tensor) -> Tensor:
        """`QLinearConv`: whole-number sums and bias, one rescaling to the output's levels."""
        inputs, outputs = self.input_quantizer, self.output_quantizer
        assert isinstance(inputs, Quantizer) and isinstance(outputs, Quantizer)
        with torch.autocast(x.device.type, enabled=False):
            weight, scale = weight_levels(self.weight, self.weight_quantizer)  # type: ignore[arg-type]
            unit, bias = inputs.positive_scale(), None
            if self.bias is not None:
                bias, scale = bias_levels(self.bias, weight, unit, scale)  # type: ignore[arg-type]
                bias = bias.float()
            sums = self._conv_forward(activation_levels(x, inputs), weight, bias)  # type: ignore[operator]
            # whole already, unless a fast algorithm (Winograd, FFT) took another way there
            sums = sums.round_()
            factor = along(unit * scale / outputs.positive_scale(), sums.ndim, 1)
            one, zero_point = torch.ones_like(outputs.scale), outputs.zero_point
            levels = centred_levels(sums.mul_(factor), one, zero_point, outputs.quant_min, outputs.quant_max)
            return levels.mul_(outputs.positive_scale()).to(x.dtype)


class QuantConv1d(QuantConv, nn.Conv1d):
    """`nn.Conv1d` on `(B, C, T)`, quantized."""

    float_class = nn.Conv1d


class QuantConv2d(QuantConv, nn.Conv2d):
    """`nn.Conv2d` on `(B, C, F, T)`, quantized."""

    float_class = nn.Conv2d
