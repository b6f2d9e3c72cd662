"""Quantized linear layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.base import QuantLayer


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` on a quantized input and weight.

    The bias stays float: an integer kernel adds it at 32 bits, in steps of `s_x s_w`.
    """

    float_class = nn.Linear
    time_axis = -2

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` -> `(..., out_features)`."""
        return F.linear(self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias)
