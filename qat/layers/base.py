"""What all quantized layers share: taking over a float layer, and giving it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.frames import FrameQuantizer
from qat.layers.quantizer import Quantizer

Layer = TypeVar("Layer", bound="QuantLayer")
REGISTRIES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_flat_weights",
)


class QuantLayer(nn.Module):
    """Mixin of the quantized layers; comes before the float class.

    Attributes:
        float_class: the class that `from_float` takes and `to_float` gives back.
        time_axis: of the layer's input, negative.
        layer_recipe: what it was built from.
        relative_error: an error of its output counts by its share of the output's energy, frame by frame (AdaRound and
            bias correction): what follows normalises each frame, quiet ones as well as loud ones.
    """

    float_class: type[nn.Module]
    time_axis: int = -1
    layer_recipe: LayerRecipe
    relative_error: bool = False

    @classmethod
    def from_float(cls: type[Layer], layer: nn.Module, recipe: LayerRecipe) -> Layer:
        """Quantized layer that shares the very Parameters of `layer`; its quantizers are off.

        Args:
            layer: exactly a `float_class`.
            recipe: bits, observers and rounding.
        """
        quantized = adopt(cls, layer)
        quantized.layer_recipe = recipe
        quantized.add_quantizers(recipe)
        return quantized.train(layer.training)

    def to_float(self) -> nn.Module:
        """Float layer that shares the Parameters; computes exactly what the layer did before `from_float`."""
        layer = adopt(self.float_class, self)
        for name in ("input_quantizer", "weight_quantizer", "weight_quantizers", "output_quantizer"):
            layer._modules.pop(name, None)
        for name in ("layer_recipe", "relative_error"):
            layer.__dict__.pop(name, None)
        return layer

    def add_quantizers(self, recipe: LayerRecipe) -> None:
        """Create the child quantizers; `nn.Identity` where a side stays float."""
        weight, device = self.get_parameter("weight"), self.get_parameter("weight").device
        self.input_quantizer: nn.Module = nn.Identity()
        self.weight_quantizer: nn.Module = nn.Identity()
        if recipe.activation_bits and recipe.activation_granularity == "frame":
            self.input_quantizer = FrameQuantizer(recipe).to(device)
        elif recipe.activation_bits:
            self.input_quantizer = Quantizer.for_activation(recipe, self.time_axis, device)
        if recipe.weight_bits:
            self.weight_quantizer = Quantizer.for_weight(weight, recipe)

    def quantize_input(self, x: Tensor) -> Tensor:
        """The layer's input as it is multiplied."""
        return self.input_quantizer(x)

    def weights(self) -> Iterator[tuple[str, Tensor, Quantizer]]:
        """Yield (name, weight, its quantizer) for each quantized weight."""
        if isinstance(self.weight_quantizer, Quantizer):
            yield "weight", self.get_parameter("weight"), self.weight_quantizer


def adopt(cls: Any, layer: nn.Module) -> Any:
    """An instance of `cls` with the attributes, Parameters and hooks of `layer`; the registries are copies."""
    new: Any = object.__new__(cls)
    new.__dict__.update(layer.__dict__)
    for name in REGISTRIES:
        if name in layer.__dict__:
            new.__dict__[name] = layer.__dict__[name].copy()
    return new


def device_of(layer: nn.Module) -> torch.device:
    """Device of the first Parameter."""
    return next(layer.parameters()).device
