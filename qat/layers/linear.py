"""Quantized linear layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.base import QuantLayer, device_of, emulates_kernel
from qat.layers.blocks import BlockQuantizer
from qat.layers.frames import FrameQuantizer
from qat.layers.sampling import sample


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` on a quantized input and weight.

    The bias stays float, as in the integer kernel. With 4-bit weights, 8-bit activations and the recipe's
    `four_bit_linear: matmul_nbits` the input is quantized in blocks on the fly and has no static range.
    """

    float_class = nn.Linear
    time_axis = -2

    def new_input_quantizer(self) -> nn.Module:
        """In blocks, by frame, or with one range."""
        recipe, device = self.layer_recipe, device_of(self)
        if recipe.packs_linear:
            return BlockQuantizer(self.in_features).to(device)
        return FrameQuantizer(recipe).to(device) if recipe.by_frame else super().new_input_quantizer()

    def forward(self, input: Tensor) -> Tensor:
        """`(..., I)` -> `(..., O)`; evaluated on a CPU without a gradient, as the integer kernel."""
        if emulates_kernel(self, input):
            return self.integer_forward(input)
        return F.linear(self.input_quantizer(input), self.weight_quantizer(self.weight), self.bias)

    def integer_forward(self, x: Tensor) -> Tensor:
        """On levels, bit for bit as the exported file."""
        with torch.autocast(x.device.type, enabled=False):
            weight, scale, _ = self.weight_quantizer.levels(self.weight)
            return self.input_quantizer.linear(x, weight, scale, self.bias).to(x.dtype)

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Rows of the input, `(1, N, I)`."""
        x = (self.input_quantizer(x) if quantized else x).detach().float()
        rows = [item.reshape(1, -1, x.shape[-1]) for item in (x.split(1) if x.ndim > 2 else [x])]
        return torch.cat([sample(item, generator) for item in rows], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in ("enabled", "calibrated"):  # an older checkpoint switches blocks with the weights
            own, weights = f"{prefix}input_quantizer.{key}", f"{prefix}weight_quantizer.{key}"
            if hasattr(self.input_quantizer, key) and own not in state_dict and weights in state_dict:
                state_dict[own] = state_dict[weights]
        super()._load_from_state_dict(state_dict, prefix, *args)
