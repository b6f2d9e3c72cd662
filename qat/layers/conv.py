"""Quantized convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.base import QuantLayer, device_of, emulates_kernel, new_activation_quantizer
from qat.layers.frames import FrameQuantizer
from qat.layers.integer import bias_levels
from qat.layers.windows import matrix_of, sampled_windows, windows_of
from qat.numerics.affine import centred_levels
from qat.numerics.scales import along


class _ConvInputs(QuantLayer):
    """What AdaRound sees of a convolution."""

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Windows of the input, `(G, N, I)`."""
        x = (self.quantize_whole(x) if quantized else x).detach().float()
        layer: Any = self
        rows = [sampled_windows(layer, item, generator) for item in (x.split(1) if x.ndim > 2 else [x])]
        return torch.cat([self.quantize_rows(item) if quantized else item for item in rows], dim=1)

    def quantize_whole(self, x: Tensor) -> Tensor:
        """The layer's input, before it is cut into windows."""
        return x

    def quantize_rows(self, rows: Tensor) -> Tensor:
        """The windows `(G, N, I)`."""
        return rows


class QuantConv(_ConvInputs):
    """A convolution on a quantized input and weight, whose output is quantized to 8 bits.

    The integer kernel (`QLinearConv`) writes 8-bit outputs whatever the width of its input, so the output
    quantizer is always unsigned, 8 bits, with a zero point; signed for TensorRT.
    """

    weight: Tensor
    bias: Tensor | None
    _conv_forward: Any
    output_quantizer: Any

    def add_quantizers(self) -> None:
        """Input and weight as usual, and the output."""
        super().add_quantizers()
        recipe = self.layer_recipe
        if recipe.activation_bits:
            recipe = replace(recipe, activation_bits=8, activation_signed=recipe.target == "tensorrt")
        self.output_quantizer = new_activation_quantizer(recipe, self.time_axis, device_of(self))

    def forward(self, input: Tensor) -> Tensor:
        """As the float convolution; evaluated on a CPU without a gradient, bit for bit as the integer kernel."""
        if emulates_kernel(self, input):
            return self.integer_forward(input)
        weight = self.weight_quantizer(self.weight)
        return self.output_quantizer(self._conv_forward(self.input_quantizer(input), weight, self.bias))

    def integer_forward(self, x: Tensor) -> Tensor:
        """`QLinearConv`: whole-number sums and bias, one rescaling to the output's levels."""
        outputs, bias = self.output_quantizer, None
        with torch.autocast(x.device.type, enabled=False):
            weight, scale, _ = self.weight_quantizer.levels(self.weight)
            levels, unit, zero_point = self.input_quantizer.levels(x)
            if self.bias is not None:
                whole, scale = bias_levels(self.bias, weight, unit, scale)
                bias = whole.float()
            sums = self._conv_forward(levels.sub_(zero_point), weight, bias)
            # whole already, unless a fast algorithm (Winograd, FFT) took another way there
            sums = sums.round_()
            factor = along(unit * scale / outputs.positive_scale(), sums.ndim, 1)
            one, zero_point = torch.ones_like(outputs.scale), outputs.zero_point
            levels = centred_levels(sums.mul_(factor), one, zero_point, outputs.quant_min, outputs.quant_max)
            return levels.mul_(outputs.positive_scale()).to(x.dtype)

    def quantize_whole(self, x: Tensor) -> Tensor:
        """By the static range."""
        return self.input_quantizer(x)

    def ignore_output_below_(self, floor: float) -> None:
        """The output's range then ends at `floor`."""
        self.output_quantizer.floor = floor


class QuantConv1d(QuantConv, nn.Conv1d):
    """`nn.Conv1d` on `(B, C, T)`, quantized."""

    float_class = nn.Conv1d


class QuantConv2d(QuantConv, nn.Conv2d):
    """`nn.Conv2d` on `(B, C, F, T)`, quantized."""

    float_class = nn.Conv2d


class QuantFrameConv1d(_ConvInputs, nn.Conv1d):
    """`nn.Conv1d` without groups on `(B, C, T)` whose windows have a range each; the output stays float."""

    float_class = nn.Conv1d

    def new_input_quantizer(self) -> nn.Module:
        """A range for each window."""
        return FrameQuantizer(self.layer_recipe).to(device_of(self))

    def forward(self, input: Tensor) -> Tensor:
        """As a linear layer on the windows; evaluated on a CPU without a gradient, bit for bit as the exported file."""
        if not self.input_quantizer.is_enabled:
            return self._conv_forward(input, self.weight_quantizer(self.weight), self.bias)
        rows = windows_of(self, input)
        if emulates_kernel(self, input):
            return self.integer_forward(rows).to(input.dtype)
        matrix = matrix_of(self.weight_quantizer(self.weight))
        return F.linear(self.input_quantizer(rows), matrix, self.bias).transpose(1, 2)

    def integer_forward(self, rows: Tensor) -> Tensor:
        """Windows `(B, T', K C)` -> `(B, O, T')` on levels."""
        with torch.autocast(rows.device.type, enabled=False):
            weight, scale, _ = self.weight_quantizer.levels(self.weight)
            return self.input_quantizer.linear(rows, matrix_of(weight), scale, self.bias).transpose(1, 2)

    def quantize_rows(self, rows: Tensor) -> Tensor:
        """Each by its own range."""
        return self.input_quantizer(rows)
