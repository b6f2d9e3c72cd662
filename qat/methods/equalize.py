"""Equalization of channel ranges in a whole model, with the float equality check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from datamodules.base import SpeechDataModule
from datamodules.utterance import Utterance
from qat.layers.base import QuantLayer, device_of
from qat.layers.equalize import ScalePair, input_range, output_range, scale_pair_, unfit_reason
from qat.methods.calibrate import calibration_batches
from qat.models.ctc import CTCModule
from qat.numerics.equalization import equalizing_scale, spread
from qat.numerics.precision import full_precision
from qat.recipe import Recipe
from qat.rule import Equalize
from qat.system.ranks import gather_from_all

TOLERANCE = (
    1e-5  # relative to the largest logit; powers of two change no bit, but for numbers too small for float32
)
ROUNDS = 20  # at most: a layer between two pairs is scaled by both
CROSS_LAYER_ALPHA = 0.5


@torch.no_grad()
@full_precision()
def equalize_and_check(
    module: CTCModule, data: SpeechDataModule, largest: Mapping[str, Tensor] | None = None
) -> str:
    """Equalize as the recipe says, once, with the quantizers off; return the line to print.

    What was done to each pair is in `module.equalized`, which checkpoints keep.

    Args:
        module: float, or with quantizers that are off; its weights are changed in place.
        data: with the training utterances that calibrate.
        largest: name of a pair -> largest magnitude of each channel `(C,)`, where that is known; None: measured.

    Raises:
        RuntimeError: it was done before, or the float output changed by more than `TOLERANCE` of its largest logit.
    """
    if module.equalized:
        raise RuntimeError("this model is equalized already; channels may be scaled once only")
    recipe = module.recipe
    utterances = data.calibration_utterances(recipe.calibration_utterances, recipe.seed)
    probe = next(iter(data.loader(utterances[:1]))).to(device_of(module))
    was_training = module.training
    module.eval()
    before = module.posteriors(probe)[0]
    found = [(pair, skip_reason(module, pair)) for pair in module.scale_pairs()]
    fitting = [pair for pair, reason in found if not reason]
    smooth = [pair for pair in fitting if method_of(module, pair) == "smooth"]
    if largest is None:
        largest = largest_inputs(module, smooth, data, utterances) if smooth else {}
    done = equalize_(module, fitting, {pair.name: largest[pair.name] for pair in smooth})
    module.equalized = [
        done.get(pair.name) or {"pair": pair.name, "reason": reason} for pair, reason in found
    ]
    change = float((module.posteriors(probe)[0] - before).abs().max() / before.abs().max().clamp(min=1e-12))
    module.train(was_training)
    if not change <= TOLERANCE:
        raise RuntimeError(
            f"equalization ({how(recipe)}) changed the float output by {change:.1e}, must be at most {TOLERANCE}; "
            "a layer may be read in a way that the model does not name: switch it off with --qat.equalize none"
        )
    return f"{summary(module)} (float output unchanged within {change:.0e})"


def methods_of(module: CTCModule, pair: ScalePair) -> list[Equalize]:
    """How the recipe says to scale a pair, for each quantized layer that reads it."""
    quantized = (name for name in pair.consumers if isinstance(module.get_submodule(name), QuantLayer))
    return [module.recipe.equalize_of(name, module.groups) for name in quantized]


def method_of(module: CTCModule, pair: ScalePair) -> Equalize:
    """How a pair is scaled: as for the first reader that asks for it."""
    return next((method for method in methods_of(module, pair) if method != "none"), "none")


def skip_reason(module: CTCModule, pair: ScalePair) -> str:
    """Why a pair is left as it is; empty if it is scaled."""
    if reason := unfit_reason(module, pair):
        return reason
    if not methods_of(module, pair):
        return "no quantized layer reads it"
    return "" if method_of(module, pair) != "none" else "the recipe's rules leave it"


def equalize_(
    module: CTCModule, pairs: Sequence[ScalePair], largest: dict[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Scale all pairs until none changes any more; by the weights alone where there are no activations.

    Args:
        module: holds the layers, whose weights are changed in place, and the recipe with the share of the activations'
            range that is moved into the weights.
        pairs: each without a reason against it.
        largest: name of a pair -> largest magnitude of each channel `(C,)`, of those that go by it.

    Returns:
        Name of a pair -> its name, number of channels, and largest over median range of a channel before and after.
    """
    report: dict[str, dict[str, Any]] = {}

    def ranges(pair: ScalePair) -> tuple[Tensor, Tensor]:
        second = torch.stack([input_range(module.get_submodule(name)) for name in pair.consumers]).amax(0)
        if pair.name in largest:
            return largest[pair.name].to(second.device), second
        return output_range(module.get_submodule(pair.producer), pair.channels, len(second)), second

    for _ in range(ROUNDS):
        changed = False
        for pair in pairs:
            first, second = ranges(pair)
            alpha = module.recipe.smooth_alpha if pair.name in largest else CROSS_LAYER_ALPHA
            scale = equalizing_scale(first, second, alpha)
            entry = report.setdefault(
                pair.name, {"pair": pair.name, "channels": len(scale), "before": spread(first)}
            )
            scale_pair_(module, pair, scale)
            if pair.name in largest:
                largest[pair.name] = first / scale
            entry["after"] = spread(ranges(pair)[0])
            changed = changed or bool((scale != 1).any())
        if not changed:
            break
    return report


def largest_inputs(
    module: CTCModule, pairs: Sequence[ScalePair], data: SpeechDataModule, utterances: Sequence[Utterance]
) -> dict[str, Tensor]:
    """Largest magnitude `(C,)` of each channel between a pair, over the utterances, which all ranks share."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen = channel_magnitudes(layer, inputs[0])
            found[name] = torch.maximum(found[name], seen) if name in found else seen

        return hook

    hooks = [
        module.get_submodule(pair.consumers[0]).register_forward_pre_hook(keep(pair.name)) for pair in pairs
    ]
    try:
        for batch in calibration_batches(module, data, utterances):
            module.posteriors(batch)
    finally:
        for handle in hooks:
            handle.remove()
    every = gather_from_all({name: seen.cpu() for name, seen in found.items()})
    names = [pair.name for pair in pairs]
    return {name: torch.stack([part[name] for part in every if name in part]).amax(0) for name in names}


def channel_magnitudes(layer: nn.Module, x: Any) -> Tensor:
    """Largest magnitude of each input channel `(C,)` of a linear, convolutional or recurrent layer."""
    data = x.data if isinstance(x, PackedSequence) else x
    axis = 1 if isinstance(layer, nn.modules.conv._ConvNd) else data.ndim - 1
    return data.detach().float().abs().transpose(0, axis).flatten(1).amax(1)


def summary(module: CTCModule) -> str:
    """How many pairs were scaled, how uneven they were and are, and why the others were not."""
    recipe = module.recipe
    scaled = [item for item in module.equalized if "channels" in item]
    line = f"equalized {len(scaled)} of {len(module.equalized)} pairs of layers ({how(recipe)})"
    if scaled:
        worst = max(scaled, key=lambda item: item["before"])
        line += (
            f", largest over median range of a channel {worst['before']:.1f} -> "
            f"{max(item['after'] for item in scaled):.1f}"
        )
    reasons: dict[str, list[str]] = {}
    for item in module.equalized:
        if "reason" in item:
            reasons.setdefault(item["reason"], []).append(item["pair"])
    skipped = [f"{some(pairs)}: {reason}" for reason, pairs in reasons.items()]
    return line + (f", skipped {'; '.join(skipped)}" if skipped else "")


def how(recipe: Recipe) -> str:
    """The methods that a recipe and its rules name.

    >>> how(Recipe.from_dict({"equalize": "cross_layer", "rules": [{"match": "head", "equalize": "smooth"}]}))
    'cross_layer and smooth, alpha 0.5'
    """
    methods = {recipe.equalize, *(rule.equalize for rule in recipe.rules)} - {None, "none"}
    alpha = f", alpha {recipe.smooth_alpha:g}"
    return " and ".join(name + (alpha if name == "smooth" else "") for name in sorted(map(str, methods)))


def some(names: Sequence[str]) -> str:
    """The first name, and how many more there are.

    >>> some(["a -> b", "b -> c"])
    '`a -> b` and 1 more'
    """
    return f"`{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
