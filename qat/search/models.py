"""The models that a search compares: the float one, and those that a recipe makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from datamodules.base import SpeechDataModule
from datamodules.utterance import Utterance
from qat.layer_recipe import FourBitLinear
from qat.layers.equalize import unfit_reason
from qat.layers.quantizer import Quantizer
from qat.layers.state import calibrate_weights_, finish_calibration_, load_float_state_
from qat.layers.swap import quantizers
from qat.methods.calibrate import calibrate_
from qat.methods.equalize import largest_inputs
from qat.methods.fold_batch_norm import fold_and_check
from qat.models.ctc import CTCModule
from qat.numerics.equalization import spread
from qat.recipe import Recipe
from qat.search.candidates import UNEVEN, Candidate, Unit
from qat.search.options import SearchOptions
from qat.system.errors import UserError

Choice = Mapping[str, Candidate]  # name of a unit -> what its layers become
OBSERVED = ".observer."
NO_CHANNELS = torch.zeros(0)


def recipe_of(
    units: Sequence[Unit],
    choice: Choice,
    options: SearchOptions,
    calibrated_on: int,
    four_bit_linear: FourBitLinear = "auto",
) -> Recipe:
    """The recipe of a choice: a rule for every layer.

    Args:
        units: of the model.
        choice: for each unit.
        options: with the seed.
        calibrated_on: training utterances.
        four_bit_linear: kernel of 4-bit linear layers.
    """
    rules = [choice[unit.name].rule(layer) for unit in units for layer in unit.layers]
    return Recipe(
        preset="searched",
        activation_observer="percentile",
        fine_tune=False,
        calibration_utterances=calibrated_on,
        seed=options.seed,
        four_bit_linear=four_bit_linear,
        rules=rules,
    )


def uniform(units: Sequence[Unit], candidate: Candidate) -> dict[str, Candidate]:
    """One candidate for all units that can take it; the others stay float."""
    return {unit.name: candidate if candidate in unit.candidates else Candidate() for unit in units}


def with_recipe(float_module: CTCModule, recipe: Recipe) -> CTCModule:
    """A float model's twin under a recipe, folded as the recipe says, not yet calibrated, in eval mode."""
    arguments = {key: value for key, value in float_module.hparams.items() if key != "init_from"}
    if "pretrained" in arguments:
        arguments["pretrained"] = None
    twin = type(float_module)(**{**arguments, "recipe": recipe})
    if float_module.folded:
        twin.fold_batch_norm()
    load_float_state_(twin, float_module.state_dict())
    twin.eval()
    if recipe.fold_batch_norm and not twin.folded:
        fold_and_check(twin)
    return twin


def largest_channels(
    module: CTCModule, data: SpeechDataModule, utterances: Sequence[Utterance]
) -> dict[str, Tensor]:
    """Largest magnitude `(C,)` of each channel of all pairs of layers that equalization can scale, by the pair's name.

    Args:
        module: float.
        data: that the utterances are of.
        utterances: that calibrate.
    """
    pairs = [pair for pair in module.scale_pairs() if not unfit_reason(module, pair)]
    return largest_inputs(module, pairs, data, utterances) if pairs else {}


def uneven_layers(module: CTCModule, largest: Mapping[str, Tensor]) -> set[str]:
    """The layers that read channels of which few are much larger than the rest."""
    pairs = [pair for pair in module.scale_pairs() if spread(largest.get(pair.name, NO_CHANNELS)) >= UNEVEN]
    return {layer for pair in pairs for layer in pair.consumers}


def observed(module: CTCModule, data: SpeechDataModule) -> dict[str, Tensor]:
    """What the activation quantizers of a model see of float speech, which all candidates' ranges are chosen from.

    Args:
        module: all of whose layers have static ranges, not calibrated; is calibrated afterwards.
        data: with the training utterances.
    """
    calibrate_(module, data)
    return {key: value.clone() for key, value in module.state_dict().items() if OBSERVED in key}


@torch.no_grad()
def calibrate_from_(module: CTCModule, histograms: Mapping[str, Tensor]) -> None:
    """Calibrate a model from what another's quantizers saw, and switch it on.

    Raises:
        UserError: a quantizer saw nothing.
    """
    own = module.state_dict()
    module.load_state_dict({key: value for key, value in histograms.items() if key in own}, strict=False)
    calibrate_weights_(module)
    finish_calibration_(module)
    module.quantize()


def enable_alone_(module: CTCModule, layers: Iterable[str]) -> None:
    """Switch the quantizers of some layers on, and all others off."""
    for _, quantizer in quantizers(module):
        quantizer.set_enabled_(False)
    for name in layers:
        for child in module.get_submodule(name).modules():
            if isinstance(child, Quantizer):
                child.set_enabled_(True)


def draw(data: SpeechDataModule, options: SearchOptions) -> tuple[list[Utterance], list[Utterance]]:
    """Training utterances that calibrate, and others on which divergences are measured.

    The first are those that `calibrate_` draws. Of a small corpus a quarter is held out.

    Raises:
        UserError: the corpus is a stream, or has a single utterance.
    """
    if not data.can_list("train"):
        raise UserError("search: train must be a corpus whose utterances can be listed, not a stream")
    every = len(data.utterances("train"))
    if every < 2:
        raise UserError("search: train has 1 utterance; must be at least 2, to calibrate and to measure on")
    held_out = min(options.utterances, max(1, every // 4))
    calibrating = min(options.calibration_utterances, every - held_out)
    drawn = data.calibration_utterances(calibrating + held_out, options.seed)
    return drawn[:calibrating], drawn[calibrating:]
