"""What all quantized layers share: taking over a float layer, and giving it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.activation import ActivationQuantizer
from qat.layers.products import Product
from qat.layers.quantizer import Unquantized
from qat.layers.weight import WeightQuantizer

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

QUANTIZERS = (
    "input_quantizer",
    "hidden_quantizer",
    "weight_quantizer",
    "weight_quantizers",
    "output_quantizer",
)  # names of a layer's child quantizers


class QuantLayer(nn.Module):
    """Mixin of the quantized layers; comes before the float class.

    Attributes:
        float_class: the class that `from_float` takes and `to_float` gives back.
        time_axis: of the layer's input, negative.
        layer_recipe: what it was built from.
        reads_activations: whether it multiplies; a look-up is quantized with weight bits alone.
        relative_error: an error of its output counts by its share of the output's energy, frame by frame (AdaRound and
            bias correction): what follows normalises each frame, quiet ones as well as loud ones.
        input_quantizer: of the layer's input; `Unquantized` where it stays float.
        weight_quantizer: likewise; layers with several weights give `weights` instead.
    """

    float_class: type[nn.Module]
    time_axis: int = -1
    layer_recipe: LayerRecipe
    reads_activations: bool = True
    relative_error: bool = False
    input_quantizer: Any
    weight_quantizer: Any

    @classmethod
    def from_float(cls: type[Layer], layer: nn.Module, recipe: LayerRecipe) -> Layer:
        """Quantized layer that shares the very Parameters of `layer`; its quantizers are off.

        Args:
            layer: exactly a `float_class`.
            recipe: bits, observers and rounding.
        """
        quantized = adopt(cls, layer)
        quantized.layer_recipe = recipe
        quantized.add_quantizers()
        return quantized.train(layer.training)

    def to_float(self) -> nn.Module:
        """Float layer that shares the Parameters; computes exactly what the layer did before `from_float`."""
        layer = adopt(self.float_class, self)
        for name in QUANTIZERS:
            layer._modules.pop(name, None)
        for name in ("layer_recipe", "relative_error", "time_axis"):
            layer.__dict__.pop(name, None)
        return layer

    def add_quantizers(self) -> None:
        """Create the child quantizers, the input's first: their order numbers the noise they draw."""
        self.input_quantizer = self.new_input_quantizer()
        weight, recipe = self.get_parameter("weight"), self.layer_recipe
        self.weight_quantizer = WeightQuantizer(weight, recipe) if recipe.weight_bits else Unquantized()

    def new_input_quantizer(self) -> nn.Module:
        """One range for the whole input, from calibration, where the recipe gives activation bits."""
        return new_activation_quantizer(self.layer_recipe, self.time_axis, device_of(self))

    def weights(self) -> Iterator[tuple[str, Tensor, WeightQuantizer]]:
        """Yield (name, weight, its quantizer) for each quantized weight."""
        if self.layer_recipe.weight_bits:
            yield "weight", self.get_parameter("weight"), self.weight_quantizer

    def products(self) -> list[Product]:
        """The matrix products that quantized weights take part in, in the order of their computation."""
        if not self.layer_recipe.weight_bits:
            return []
        biases = [] if getattr(self, "bias", None) is None else ["bias"]
        return [Product([["weight"]], biases, int(getattr(self, "groups", 1)))]

    def recorded(self, *inputs: Any, **named: Any) -> Any:
        """What `product_inputs` needs of the arguments of a call: the first one."""
        return inputs[0]

    def product_inputs(self, index: int, x: Any, quantized: bool, generator: torch.Generator) -> Tensor:
        """Inputs of the product `index`, `(G, N, I)`, out of the layer's input; a sample where there are many.

        Args:
            index: in `products`.
            x: what the layer was called with (`recorded`).
            quantized: as the layer computes now; else as the float layer does.
            generator: draws the positions; the same state for the float and the quantized side.
        """
        raise NotImplementedError

    @property
    def can_emulate(self) -> bool:
        """Whether it has what its integer kernel needs: both sides quantized, and no gradient asked for."""
        both = self.input_quantizer.is_active and self.weight_quantizer.is_active
        return both and not torch.is_grad_enabled()

    def ignore_output_below_(self, floor: float) -> None:
        """Let no range of the output, where the layer keeps one, reach below `floor`: what follows ignores it."""


def new_activation_quantizer(recipe: LayerRecipe, time_axis: int, device: torch.device) -> nn.Module:
    """A quantizer with one range, or none where activations stay float."""
    return ActivationQuantizer(recipe, time_axis, device) if recipe.activation_bits else Unquantized()


class Emulating(Protocol):
    """What can compute as its integer kernel: a layer, or the products of an attention."""

    training: bool

    @property
    def can_emulate(self) -> bool:
        """Whether it has what its integer kernel needs, and no gradient is asked for."""
        ...


def emulates_kernel(layer: Emulating, x: Tensor) -> bool:
    """Whether a layer is to compute on `x` as its integer kernel: evaluated on a CPU, and such that it can.

    On a GPU evaluation has the arithmetic of training, rounded to nearest: an LSTM's kernel, emulated frame by frame,
    would take many times as long as the rest. What is reported is measured on the exported file anyway.
    """
    return not layer.training and x.device.type == "cpu" and layer.can_emulate


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
