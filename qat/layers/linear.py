"""Quantized linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.base import QuantLayer
from qat.layers.integer import activation_levels, computes_integers, weight_levels
from qat.layers.quantizer import Quantizer


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` on a quantized input and weight.

    The bias stays float, as in the integer kernel.
    """

    float_class = nn.Linear
    time_axis = -2

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` -> `(..., out_features)`; evaluated without a gradient, as the integer kernel."""
        if computes_integers(self):
            return self._forward_integers(input)
        return F.linear(self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias)

    def _forward_integers(self, x: Tensor) -> Tensor:
        """`MatMulIntegerToFloat`: whole-number sums, one rescaling, float bias."""
        inputs = self.input_quantizer
        assert isinstance(inputs, Quantizer) and isinstance(self.weight_quantizer, Quantizer)
        with torch.autocast(x.device.type, enabled=False):
            weight, scale = weight_levels(self.weight, self.weight_quantizer)
            out = F.linear(activation_levels(x, inputs), weight).mul_(inputs.positive_scale() * scale)
            return (out if self.bias is None else out.add_(self.bias)).to(x.dtype)
