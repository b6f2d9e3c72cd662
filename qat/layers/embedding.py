"""Quantized embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.base import QuantLayer, emulates_kernel
from qat.layers.products import Product
from qat.layers.quantizer import Unquantized
from qat.layers.weight import WeightQuantizer


class QuantEmbedding(QuantLayer, nn.Embedding):
    """`nn.Embedding` on 2 to 8-bit rows, with a scale for each row (or one for all).

    It looks up and multiplies nothing: no activation is quantized, and rounding to nearest is the best rounding.
    """

    float_class = nn.Embedding
    reads_activations = False

    def add_quantizers(self) -> None:
        """Of the rows alone, without AdaRound."""
        self.input_quantizer = Unquantized()
        recipe = replace(self.layer_recipe, ada_round=False)
        self.weight_quantizer = WeightQuantizer(self.weight, recipe) if recipe.weight_bits else Unquantized()

    @property
    def can_emulate(self) -> bool:
        """Whether its rows are on levels, and no gradient is asked for."""
        return self.weight_quantizer.is_active and not torch.is_grad_enabled()

    def forward(self, input: Tensor) -> Tensor:
        """Whole numbers `(...)` -> rows `(..., D)`."""
        if emulates_kernel(self, input):
            levels, scale, _ = self.weight_quantizer.levels(self.weight)
            return levels[input].mul_(scale[input].unsqueeze(-1)).to(self.weight.dtype)
        return F.embedding(
            input, self.weight_quantizer(self.weight), self.padding_idx, None, 2.0, self.scale_grad_by_freq
        )

    def products(self) -> list[Product]:
        """None."""
        return []

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """There is no product."""
        raise NotImplementedError
