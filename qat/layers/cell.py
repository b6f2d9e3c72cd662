"""What the layers share that step through time on integer products: GRU and LSTM cells, and stacks of them.

A step has two products, of its input and of its hidden state, each on levels of its own; gates are float. The hidden
state lies in (-1, 1), so its range is fixed; the input's is calibrated, or one for each row. No row reads another, so a
hypothesis scores the same whatever stands beside it in a batch or beam. What the update carries over stays float.

On levels, gates are computed in float64 and rounded to float32: PyTorch takes other functions for the last values of a
tensor than for the rest, so that in float32 a row's last bit would depend on its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.activation import FixedQuantizer
from qat.layers.base import QuantLayer, device_of, emulates_kernel
from qat.layers.frames import FrameQuantizer
from qat.layers.products import Product
from qat.layers.quantizer import StepKey, Unquantized
from qat.layers.weight import WeightQuantizer

Sums = Callable[[Tensor], Tensor]
Arithmetic = Literal[
    "float", "fake", "levels"
]  # plain, fake-quantized with gradients, or as the integer kernel


class QuantRecurrent(QuantLayer):
    """A layer of one or more cells.

    Attributes:
        hidden_quantizer: of hidden states.
        weight_quantizers: name of a weight -> its quantizer.
        sides: what AdaRound takes together: input and hidden state side by side where the gates add both products up.
    """

    bias: bool
    hidden_quantizer: Any
    weight_quantizers: nn.ModuleDict
    sides: tuple[tuple[str, ...], ...] = (("ih", "hh"),)

    def add_quantizers(self) -> None:
        """Of the input, the hidden state and each matrix, in this order."""
        recipe, device = self.layer_recipe, device_of(self)
        self.input_quantizer = (
            FrameQuantizer(recipe).to(device) if recipe.by_frame else self.new_input_quantizer()
        )
        self.hidden_quantizer = FixedQuantizer(recipe, device) if recipe.activation_bits else Unquantized()
        self.weight_quantizers = nn.ModuleDict()
        if recipe.weight_bits:
            for suffix in (suffix for layer in self.suffixes() for suffix in layer):
                for side in ("ih", "hh"):
                    name = f"weight_{side}{suffix}"
                    self.weight_quantizers[name] = WeightQuantizer(self.get_parameter(name), recipe)

    def suffixes(self) -> list[list[str]]:
        """For each stacked layer, what the parameters' names end in, one for each direction."""
        return [[""]]

    def weights(self) -> Iterator[tuple[str, Tensor, WeightQuantizer]]:
        """Yield (name, weight, its quantizer) for each matrix."""
        table: Any = self.weight_quantizers
        for name, quantizer in table.items():
            yield name, self.get_parameter(name), quantizer

    @property
    def is_enabled(self) -> bool:
        """Whether the quantizers are on."""
        return any(child.is_enabled for child in [*self.weight_quantizers.values(), self.input_quantizer])

    @property
    def can_emulate(self) -> bool:
        """Whether it has what its integer kernel needs: all sides quantized, and no gradient asked for."""
        table: Any = self.weight_quantizers
        active = bool(table) and all(child.is_active for child in [*table.values(), self.input_quantizer])
        return active and not torch.is_grad_enabled()

    @property
    def step_key(self) -> StepKey:
        """What the noise of the hidden state depends on."""
        noise = getattr(self.hidden_quantizer, "noise", None)
        return StepKey() if noise is None else noise.key

    @contextmanager
    def arithmetic(self, x: Tensor) -> Iterator[Arithmetic]:
        """How it computes on `x` now; levels take no part in autocast."""
        if not emulates_kernel(self, x):
            yield "fake"
            return
        with torch.autocast(x.device.type, enabled=False):
            yield "levels"

    def sums(self, name: str, quantizer: Any, mode: Arithmetic) -> Sums:
        """One product with its bias, `(..., I)` -> gates `(..., G H)`; the weight is quantized once.

        Args:
            name: of the matrix, without `weight_`.
            quantizer: of what it multiplies.
            mode: "float" and "fake" leave that to the caller where `quantizer` is `Unquantized`.
        """
        weight = self.get_parameter(f"weight_{name}")
        bias = self.get_parameter(f"bias_{name}") if self.bias else None
        table: Any = self.weight_quantizers
        own: Any = table[f"weight_{name}"] if f"weight_{name}" in table else Unquantized()
        if mode == "levels":
            levels, scale, _ = own.levels(weight)
            return lambda x: quantizer.linear(x, levels, scale, bias).double()
        if mode == "float":
            return lambda x: F.linear(x, weight, bias).float()
        values = own(weight)
        return lambda x: F.linear(quantizer(x), values, bias).float()

    def products(self) -> list[Product]:
        """For each stacked layer and each of `sides` one; a group for each direction."""
        if not self.weight_quantizers:
            return []
        layers = self.suffixes()
        return [
            Product(
                weights=[[f"weight_{kind}{suffix}" for kind in side] for suffix in suffixes],
                biases=[f"bias_{side[0]}{suffix}" for suffix in suffixes] if self.bias else [],
                groups=len(suffixes),
                suffix=suffixes[0].replace("_", ".") + (f".{side[0]}" if len(self.sides) > 1 else ""),
                own_input=True,
            )
            for suffixes in layers
            for side in self.sides
        ]

    def recorded(self, *inputs: Any, **named: Any) -> Any:
        """The input and the first state (None: zeros)."""
        given = dict(zip(("input", "hx"), inputs, strict=False)) | named
        return given["input"], given.get("hx")


def gru_update(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Next hidden state `(..., H)` of a GRU, float32.

    Args:
        inputs: sums of the input `(..., 3H)`, in the order reset, update, new.
        recurrent: of the hidden state.
        hidden: `(..., H)`.
    """
    sizes = [2 * hidden.shape[-1], hidden.shape[-1]]
    (gates, new), (gates_by, new_by) = inputs.split(sizes, -1), recurrent.split(sizes, -1)
    reset, update = torch.sigmoid(gates + gates_by).chunk(2, -1)
    new = torch.tanh(new + reset * new_by)
    return (new + update * (hidden.to(new.dtype) - new)).float()


def lstm_update(inputs: Tensor, recurrent: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Next hidden and cell state `(..., H)` of an LSTM, float32.

    Args:
        inputs: sums of the input `(..., 4H)`, in the order input, forget, cell, output.
        recurrent: of the hidden state.
        cell: `(..., H)`.
    """
    size = cell.shape[-1]
    gates, new, out = (inputs + recurrent).split([2 * size, size, size], -1)
    keep, forget = torch.sigmoid(gates).chunk(2, -1)
    cell = forget * cell.to(new.dtype) + keep * torch.tanh(new)
    return (torch.sigmoid(out) * torch.tanh(cell)).float(), cell.float()
