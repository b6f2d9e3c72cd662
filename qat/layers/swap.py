"""Swapping quantized layers into a model, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from qat.layer_recipe import LayerRecipe
from qat.layers.base import QuantLayer
from qat.layers.bypass import read_past, switch_off_fast_paths_
from qat.layers.conv import QuantConv1d, QuantConv2d, QuantFrameConv1d
from qat.layers.embedding import QuantEmbedding
from qat.layers.gru import QuantGRU
from qat.layers.gru_cell import QuantGRUCell
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.lstm_cell import QuantLSTMCell
from qat.layers.quantizer import Quantizer, StepKey
from qat.layers.shared import Shared
from qat.layers.step_lstm import QuantStepLSTM, StepLSTM
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
    StepLSTM: QuantStepLSTM,
    nn.LSTMCell: QuantLSTMCell,
    nn.GRU: QuantGRU,
    nn.GRUCell: QuantGRUCell,
    nn.Embedding: QuantEmbedding,
}
FRAME_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantFrameConv1d,
    StepLSTM: QuantStepLSTM,
    nn.LSTMCell: QuantLSTMCell,
    nn.GRU: QuantGRU,
    nn.GRUCell: QuantGRUCell,
    nn.Embedding: QuantEmbedding,
}
WEIGHTED = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.MultiheadAttention,
    nn.Embedding,
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
    kept_float: Mapping[str, str] | None = None,
) -> SwapReport:
    """Replace the layers that the recipe quantizes, in place; their quantizers are off.

    weight_norm is removed first. A module that is registered under several names is swapped once and stays shared.
    Fast paths that would read weights past the swapped layers are switched off.

    Args:
        model: any module; its layers keep their Parameters.
        recipe: `active`.
        groups: name of a group -> globs on dotted names.
        readers: names of layers that read the very same tensor where they are children of one module.
        kept_float: glob on dotted names -> why these layers stay float, unless the first rule that matches one of them
            matches no other layers.

    Raises:
        UserError: a rule matches no layer, or asks of a layer what it cannot do.
    """
    groups = groups or {}
    if recipe.active:
        remove_weight_norm_(model)
    found = list(weighted_layers(model))
    names = [name for name, _ in found]
    recipe.check_rules(names, groups)
    replaced: dict[nn.Module, nn.Module] = {}
    uncalled = read_past(model)
    report = SwapReport([], [])
    for name, layer in found:
        chosen = recipe.for_layer(name, groups)
        if not isinstance(chosen, str):
            kept = kept_reason(name, names, recipe, groups, kept_float or {})
            chosen = kept or uncalled.get(layer) or float_reason(model, name, layer, chosen) or chosen
        if isinstance(chosen, str):
            report.skipped.append((name, chosen))
            continue
        replaced[layer] = quantize_layer(layer, chosen, name)
        report.swapped.append(name)
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in replaced:
                parent._modules[key] = replaced[child]
    switch_off_fast_paths_(model)
    share_input_quantizers_(model, readers)
    set_step_key_(model, StepKey(recipe.seed))
    return report


def kept_reason(
    name: str,
    names: Sequence[str],
    recipe: Recipe,
    groups: Mapping[str, Sequence[str]],
    kept_float: Mapping[str, str],
) -> str:
    """Why the model keeps a layer float; empty where it does not, or a rule speaks of none but such layers.

    Args:
        name: of the layer.
        names: of all layers.
        recipe: with rules.
        groups: as in `swap_`.
        kept_float: as in `swap_`.
    """

    def reason(layer: str) -> str:
        return next((why for glob, why in kept_float.items() if fnmatchcase(layer, glob)), "")

    rule = next((rule for rule in recipe.rules if rule.matches(name, groups)), None)
    if rule and all(reason(other) for other in names if rule.matches(other, groups)):
        return ""
    return reason(name)


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


def dynamic_recipe(layer: nn.Module, recipe: LayerRecipe) -> LayerRecipe:
    """The recipe with `activation_granularity: dynamic` settled to what this layer can have without calibration.

    A convolution of one channel reads the waveform, which has a window of few samples for each range: faster in float.
    """
    if recipe.activation_granularity != "dynamic":
        return recipe
    if can_have_frames(layer, recipe) and getattr(layer, "in_channels", None) != 1:
        return replace(recipe, activation_granularity="frame")
    takes_its_own = type(layer) is nn.LSTM and recipe.weight_bits  # its kernel does, on 8 bits
    return replace(
        recipe,
        activation_granularity="tensor",
        activation_bits=recipe.activation_bits if takes_its_own else None,
    )


def can_have_frames(layer: nn.Module, recipe: LayerRecipe) -> bool:
    """Whether each frame of a layer's input can have a range of its own."""
    grouped = getattr(layer, "groups", 1) > 1
    return type(layer) in FRAME_LAYERS and not grouped and bool(recipe.weight_bits)


def quantize_layer(layer: nn.Module, recipe: LayerRecipe, name: str = "layer") -> QuantLayer:
    """The quantized layer that takes over a float one; its quantizers are off.

    Args:
        layer: of a class in `QUANT_LAYERS`.
        recipe: of this layer.
        name: to say in an error.

    Raises:
        UserError: the recipe asks for a range for each frame, which the layer cannot have; says `name`.
    """
    recipe = dynamic_recipe(layer, recipe)
    if not recipe.by_frame:
        return QUANT_LAYERS[type(layer)].from_float(layer, recipe)
    if not can_have_frames(layer, recipe):
        grouped = getattr(layer, "groups", 1) > 1
        kind = f"{type(layer).__name__}{' of groups' if grouped else ''}"
        raise UserError(
            f"{name}: activation_granularity frame must be given to linear layers, cells and convolutions along time "
            f"without groups, with quantized weights; this is a {kind} with {recipe.weight_bits or 'float'}-bit "
            "weights. A rule with activation_granularity: tensor leaves it out"
        )
    return FRAME_LAYERS[type(layer)].from_float(layer, recipe)


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of all layers with weights to quantize, each once, in traversal order."""
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            yield name, layer


def float_reason(model: nn.Module, name: str, layer: nn.Module, recipe: LayerRecipe) -> str:
    """Why a layer cannot be swapped; empty if it can."""
    kind = type(layer).__name__
    if isinstance(layer, QuantLayer):
        return "is quantized already"
    settled = dynamic_recipe(layer, recipe)
    if not settled.weight_bits and not settled.activation_bits:
        return "the recipe gives it no weight bits, and it has no range without calibration"
    if parametrize.is_parametrized(layer):
        return "its weight is parametrized"
    if type(layer) not in QUANT_LAYERS:
        return f"no quantized {kind}"
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return "no quantized LSTM with a projection"
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        return "no quantized Embedding with max_norm or sparse gradients"
    if isinstance(layer, nn.Embedding) and not recipe.weight_bits:
        return "the recipe gives it no weight bits, and it has no activations to round"
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
