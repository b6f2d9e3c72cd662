"""GRU layers over sequences as an exported file holds them: padded input and sequence lengths, one Scan a direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qat.layers.cell import QuantRecurrent
from qat.runtime import operators
from qat.runtime.cells import both_products
from qat.runtime.linear import IntegerLinear
from qat.runtime.weights import ActivationRange, activation_range
from qat.system.errors import UserError


class ExportedGRU(nn.Module):
    """A stack of `nn.GRU` or `QuantGRU`, `(B, T, I)` and `frames (B,)` -> `(B, T, D H)`; padding comes out zero.

    Args:
        layer: batch first.

    Raises:
        UserError: time comes first.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if not layer.batch_first:
            raise UserError("export: a GRU must be batch_first")
        ends = ("", "_reverse") if layer.bidirectional else ("",)
        self.layers = nn.ModuleList(
            nn.ModuleList(GRUDirection(layer, f"_l{index}{end}", index > 0) for end in ends)
            for index in range(layer.num_layers)
        )

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """float32 `(B, T, I)` -> float32 `(B, T, D H)`."""
        places = torch.arange(x.shape[1], device=x.device)[None, :]
        valid = places < frames[:, None]
        turned = torch.where(valid, frames[:, None] - 1 - places, places)
        for layer in self.layers:
            directions: Any = layer
            outputs = [directions[0](x)]
            if len(directions) == 2:
                outputs.append(turn(directions[1](turn(x, turned)), turned))
            x = torch.cat(outputs, dim=2)
        return x * valid.unsqueeze(-1)


class GRUDirection(nn.Module):
    """One direction of one layer."""

    def __init__(self, layer: Any, suffix: str, above: bool) -> None:
        super().__init__()
        self.inputs, self.recurrent = both_products(layer, suffix, above)
        hidden: Any = layer.hidden_quantizer if isinstance(layer, QuantRecurrent) else None
        self.hidden_range = activation_range(hidden) if hidden is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, T, I)` -> `(B, T, H)`."""
        product: Any = self.recurrent
        state: Any = self.hidden_range
        ranges, bounds = list[Tensor](), (0, 255)
        if isinstance(state, ActivationRange):
            ranges, bounds = [state.scale, state.zero_point], (state.quant_min, state.quant_max)
        if isinstance(product, IntegerLinear):
            ranges.append(product.weight_scale)
            weight = product.weight
        else:
            weight = product.weight().t()
        sums = self.inputs(x).transpose(0, 1)
        return operators.gru(sums, weight, product.bias, ranges, bounds).transpose(0, 1)


def turn(x: Tensor, places: Tensor) -> Tensor:
    """Frames of `(B, T, F)` in the order of `places (B, T)`."""
    return torch.gather(x, 1, places.unsqueeze(-1).expand(-1, -1, x.shape[2]))
