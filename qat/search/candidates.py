"""What the layers of a model may become: candidates, and the units of layers that take one together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from qat.layer_recipe import LayerRecipe
from qat.layers.quantizer import Unquantized
from qat.layers.swap import float_reason, quantize_layer, weighted_layers
from qat.models.base import RecipeModule
from qat.rule import Equalize, Rule
from qat.runtime.layers import CELLS, QUANTIZED
from qat.system.errors import UserError

Activations = Literal["static", "frame", "float"]
PERCENTILES = (99.99, 99.6)  # of static ranges: nearly all values, or the loudest frames clipped
EQUALIZE: Equalize = "smooth"  # how channels are evened out
UNEVEN = 8.0  # largest over median range of the channels that a layer reads, from which on that is tried
KERNEL_BITS = (8, 4)  # of weights that static linear layers have kernels of their own for


@dataclass(frozen=True)
class Candidate:
    """What a layer may become.

    Args:
        weight_bits: None leaves the layer float.
        activations: one range from calibration, one for each frame, or none.
        percentile: of a range from calibration.
        equalize: even out the channels that it reads, where they are produced (costs nothing when it runs).
    """

    weight_bits: int | None = None
    activations: Activations = "float"
    percentile: float = PERCENTILES[0]
    equalize: bool = False

    @property
    def is_float(self) -> bool:
        """Whether it changes nothing."""
        return self.weight_bits is None

    @property
    def name(self) -> str:
        """In a few letters.

        >>> Candidate(8, "static", 99.6).name, Candidate(4, "frame").name, Candidate(4).name, Candidate().name
        ('W8A8 static 99.6', 'W4A8 frame', 'W4 weights alone', 'float')
        >>> Candidate(8, "frame", equalize=True).name
        'W8A8 frame equalized'
        """
        if self.is_float:
            return "float"
        if self.activations == "float":
            return f"W{self.weight_bits} weights alone"
        percentile = f" {self.percentile:g}" if self.activations == "static" else ""
        equalized = " equalized" if self.equalize else ""
        return f"W{self.weight_bits}A8 {self.activations}{percentile}{equalized}"

    @property
    def kernel(self) -> str:
        """What computes it, by which its time is measured: weights of few bits are unpacked when a file is loaded.

        >>> Candidate(3, "frame").kernel, Candidate(4, "static").kernel, Candidate(3, "static").kernel
        ('frame 8', 'static 4', 'static 8')
        >>> Candidate(4).kernel, FLOAT.kernel
        ('alone 8', 'float')
        """
        if self.is_float:
            return "float"
        own = self.activations == "static" and self.weight_bits in KERNEL_BITS
        return self.file_of(self.weight_bits if own else KERNEL_BITS[0])

    def file_of(self, bits: int | None) -> str:
        """Name of an exported file with these activations, and weights of so many bits."""
        return f"{'alone' if self.activations == 'float' else self.activations} {bits}"

    def fields(self) -> dict[str, Any]:
        """Of a recipe's rule."""
        if self.is_float:
            return {"quantize": False}
        found: dict[str, Any] = {"weight_bits": self.weight_bits, "activation_bits": 8}
        if self.activations == "float":
            return {**found, "activation_bits": 0}
        if self.equalize:
            found["equalize"] = EQUALIZE
        if self.activations == "frame":
            return {**found, "activation_granularity": "frame"}
        return {**found, "activation_granularity": "tensor", "percentile": self.percentile}

    def rule(self, layer: str) -> Rule:
        """The rule that gives it to a layer."""
        return Rule(layer, **self.fields())


FLOAT = Candidate()


def all_candidates(bits: Iterable[int]) -> list[Candidate]:
    """Every candidate with these weight bits, float first, and those that even out channels after all others."""
    found = [FLOAT]
    for width in sorted(set(bits), reverse=True):
        found += [Candidate(width, "static", percentile) for percentile in PERCENTILES]
        found += [Candidate(width, "frame"), Candidate(width)]
    return found + [replace(item, equalize=True) for item in found if item.activations != "float"]


@dataclass(frozen=True)
class Unit:
    """Layers that take one candidate together: those that read the same tensor, through one quantizer.

    Args:
        name: of the layer, or of the module that holds the layers.
        layers: dotted names.
        candidates: what they may become.
    """

    name: str
    layers: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def units_of(
    module: RecipeModule, candidates: Sequence[Candidate], uneven: Container[str] = ()
) -> list[Unit]:
    """The units of a float model, in traversal order, each with the candidates that recipe and exporter support.

    What a model says must stay float does: what such a layer does to a search does not show in its posteriors.

    Args:
        module: not quantized.
        candidates: with float.
        uneven: layers that read channels of which few are much larger than the rest, and can be evened out.
    """
    layers = dict(weighted_layers(module))
    found, taken = [], set[str]()
    for name in layers:
        if name in taken:
            continue
        parent, _, own = name.rpartition(".")
        names = next((group for group in module.readers if own in group), (own,))
        together = [f"{parent}.{item}" if parent else item for item in names]
        together = together if all(item in layers for item in together) else [name]
        taken.update(together)
        fitting = tuple(
            item
            for item in candidates
            if item.is_float
            or all(
                supports(module, layer, layers[layer], item)
                and not is_kept(module, layer)
                and (layer in uneven or not item.equalize)
                for layer in together
            )
        )
        found.append(Unit(parent if len(together) > 1 else name, tuple(together), fitting))
    return found


def is_kept(module: RecipeModule, layer: str) -> bool:
    """Whether a model says that a layer must stay float."""
    return any(fnmatchcase(layer, glob) for glob in module.kept_float)


def supports(module: nn.Module, name: str, layer: nn.Module, candidate: Candidate) -> bool:
    """Whether a layer can become a candidate, and an exported file computes it then."""
    chosen: dict[str, Any] = {
        key: value or None for key, value in replace(candidate, equalize=False).fields().items()
    }
    recipe = LayerRecipe(**chosen)
    if float_reason(module, name, layer, recipe):
        return False
    try:
        quantized: Any = quantize_layer(layer, recipe, name)
    except UserError:
        return False
    inputs = type(quantized.input_quantizer) if recipe.weight_bits else Unquantized
    return type(quantized) in CELLS or (type(quantized), inputs) in QUANTIZED
