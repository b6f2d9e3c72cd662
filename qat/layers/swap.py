"""Swapping quantized layers into a model, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer
from qat.layers.conv import QuantConv1d, QuantConv2d, QuantFrameConv1d
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.quantizer import Quantizer, StepKey
from qat.layers.shared import Shared
from qat.layers.weight import WeightQuantizer
from qat.layers.weight_group import WeightGroup
from qat.layers.weight_norm import remove_weight_norm_
from qat.recipe import Recipe
from qat.system.errors import UserError

QUANT_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.LSTM: QuantLSTM,
}
FRAME_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {nn.Linear: QuantLinear, nn.Conv1d: QuantFrameConv1d}
WEIGHTED = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.MultiheadAttention,
)


@dataclass(frozen=True)
class SwapReport:
    """What `swap_` did.

    Args:
        swapped: names of the layers that were quantized.
        skipped: (name, reason) of the layers with weights that stay float.
    """

    swapped: list[str]
    skipped: list[tuple[str, str]]

    def __str__(self) -> str:
        """One line.

        >>> print(SwapReport(["a"], [("lm_head", "excluded by the recipe")]))
        swapped 1, skipped 1 (`lm_head`: excluded by the recipe)
        """
        reasons = ", ".join(f"`{name}`: {reason}" for name, reason in self.skipped)
        return f"swapped {len(self.swapped)}, skipped {len(self.skipped)}" + (
            f" ({reasons})" if reasons else ""
        )


def swap_(
    model: nn.Module,
    recipe: Recipe,
    groups: Mapping[str, Sequence[str]] | None = None,
    readers: Sequence[Sequence[str]] = (),
) -> SwapReport:
    """Replace the layers that the recipe quantizes, in place; their quantizers are off.

    weight_norm is removed first. A module that is registered under several names is swapped once and stays shared.

    Args:
        model: any module; its layers keep their Parameters.
        recipe: `active`.
        groups: name of a group -> globs on dotted names.
        readers: names of layers that read the very same tensor where they are children of one module.

    Raises:
        UserError: a rule matches no layer, or asks of a layer what it cannot do.
    """
    groups = groups or {}
    if recipe.active:
        remove_weight_norm_(model)
    found = list(weighted_layers(model))
    recipe.check_rules([name for name, _ in found], groups)
    replaced: dict[nn.Module, nn.Module] = {}
    report = SwapReport([], [])
    for name, layer in found:
        chosen = recipe.for_layer(name, groups)
        reason = chosen if isinstance(chosen, str) else float_reason(model, name, layer)
        if reason or isinstance(chosen, str):
            report.skipped.append((name, reason))
            continue
        replaced[layer] = quantize_layer(layer, chosen, name)
        report.swapped.append(name)
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in replaced:
                parent._modules[key] = replaced[child]
    share_input_quantizers_(model, readers)
    set_step_key_(model, StepKey(recipe.seed))
    return report


def share_input_quantizers_(model: nn.Module, readers: Sequence[Sequence[str]]) -> None:
    """Give layers that read one tensor one quantizer of it, where their recipes are one and their ranges too.

    The keys of a checkpoint stay: each layer names the quantizer as its own. Learned scales stay apart.
    """
    for parent in model.modules():
        for names in readers:
            layers = [parent._modules.get(name) for name in names]
            found = [layer for layer in layers if isinstance(layer, QuantLayer)]
            recipes = {layer.layer_recipe for layer in found}
            if len(found) != len(names) or len(recipes) != 1 or found[0].layer_recipe.learn_scale:
                continue
            if isinstance(found[0].input_quantizer, Quantizer):
                for layer in found:
                    layer.input_quantizer = found[0].input_quantizer
                found[0].input_quantizer.shared = Shared(len(found))


def quantize_layer(layer: nn.Module, recipe: LayerRecipe, name: str = "layer") -> QuantLayer:
    """The quantized layer that takes over a float one; its quantizers are off.

    Raises:
        UserError: the recipe asks for a range for each frame, which the layer cannot have; says `name`.
    """
    if not recipe.by_frame:
        return QUANT_LAYERS[type(layer)].from_float(layer, recipe)
    grouped = getattr(layer, "groups", 1) > 1
    if type(layer) not in FRAME_LAYERS or grouped or not recipe.weight_bits:
        kind = f"{type(layer).__name__}{' of groups' if grouped else ''}"
        raise UserError(
            f"{name}: activation_granularity frame must be given to linear layers and convolutions along time "
            f"without groups, with quantized weights; this is a {kind} with {recipe.weight_bits or 'float'}-bit "
            "weights. A rule with activation_granularity: tensor leaves it out"
        )
    return FRAME_LAYERS[type(layer)].from_float(layer, recipe)


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of all linear, convolutional and recurrent layers, each once, in traversal order."""
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            yield name, layer


def float_reason(model: nn.Module, name: str, layer: nn.Module) -> str:
    """Why a layer cannot be swapped; empty if it can."""
    kind = type(layer).__name__
    if isinstance(layer, QuantLayer):
        return "is quantized already"
    if parametrize.is_parametrized(layer):
        return "its weight is parametrized"
    if type(layer) not in QUANT_LAYERS:
        return f"no quantized {kind}"
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return "no quantized LSTM with a projection"
    if layer is model:
        return "is the model itself"
    return ""


def quant_layers(model: nn.Module) -> Iterator[tuple[str, QuantLayer]]:
    """Yield (dotted name, layer) of every quantized layer, in traversal order."""
    for name, module in model.named_modules():
        if isinstance(module, QuantLayer):
            yield name, module


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Yield (dotted name, quantizer), in traversal order."""
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            yield name, module


def set_step_key_(model: nn.Module, key: StepKey) -> None:
    """Point the noise of all quantizers at one counter and number it in traversal order; group the weights."""
    group, index = WeightGroup(), 0
    for _, quantizer in quantizers(model):
        if quantizer.noise is not None:
            quantizer.noise.number_(key, index)
            index += 1
        if isinstance(quantizer, WeightQuantizer):
            group.add(quantizer)
