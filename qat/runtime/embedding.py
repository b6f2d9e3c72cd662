"""An embedding as an exported file holds it: integer rows that are looked up and scaled."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.embedding import QuantEmbedding
from qat.runtime.weights import integer_weight


class IntegerEmbedding(nn.Module):
    """`QuantEmbedding` on int8 rows; stored in 2 to 4 bits where they need no more."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, layer: QuantEmbedding) -> None:
        super().__init__()
        levels, scale = integer_weight(layer.weight, layer.weight_quantizer)
        self.register_buffer("weight", levels)
        self.register_buffer("weight_scale", scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers `(...)` -> float32 `(..., D)`."""
        return F.embedding(x, self.weight).float() * F.embedding(x, self.weight_scale)
