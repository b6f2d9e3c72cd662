"""AdaRound and bias correction of a whole model, layer by layer, after calibration."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.base import SpeechDataModule
from qat.layers.base import device_of
from qat.methods.bias_correction import keep_if_nearer_
from qat.methods.float_reference import FloatInputs, collect, divergence, sites
from qat.methods.reconstruction import LinearMap, Moments
from qat.models.ctc import CTCModule
from qat.numerics.ada_round import State, optimise
from qat.numerics.precision import full_precision

SAVE_EVERY_S = 60.0
MAX_BYTES = 8 * 2**30  # of one layer's moments; only a very wide grouped convolution needs more


class Reconstruction:
    """Reconstructs each layer's output after the layers already rounded (Nagel 2020, arXiv 2004.10568).

    The recipe's `ada_round` chooses the roundings, its `bias_correction` takes out what mean error is left. That error
    is mostly the one of blank frames, nearly all there are, and taken out of all frames it can cost labels: after
    AdaRound, the last layer keeps its bias (the mini CRDNN's divergence at 3 bits doubles, while the squared error of
    its logits halves); without AdaRound, where more is left, each correction must bring the posteriors of the whole
    model nearer to the float model's or is undone (all of them more than double the mini Wav2Vec2's divergence). Layers
    follow in the order of their calls; ranks share the training utterances, read one at a time (so that no padding
    takes part), and all come to the bits of a single process.

    The state may be kept at any call of `save`; continuing from it ends with the same bits.

    Args:
        save: called whenever the state is worth keeping.
        save_every_s: seconds between two calls of `save` inside a layer.
    """

    def __init__(self, save: Callable[[], None] = lambda: None, save_every_s: float = SAVE_EVERY_S) -> None:
        self.save, self.save_every_s = save, save_every_s
        self.position = 0  # sites done
        self.finished = False
        self.inside: dict[str, Any] = {}  # Adam's state of the map in progress
        self.biases: dict[str, Tensor] = {}  # of the float model, which bias correction changes

    def state_dict(self) -> dict[str, Any]:
        """How far it has come; the roundings themselves are buffers of the quantizers."""
        biases = {} if self.finished else dict(self.biases)
        inside = dict(self.inside)
        return {"position": self.position, "finished": self.finished, "inside": inside, "biases": biases}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self.position, self.finished = state_dict["position"], state_dict["finished"]
        self.inside, self.biases = dict(state_dict["inside"]), dict(state_dict["biases"])

    @torch.no_grad()
    @full_precision()
    def run_(self, module: CTCModule, data: SpeechDataModule) -> None:
        """All sites from `self.position` on, in eval mode."""
        recipe, started, was_training = module.recipe, time.perf_counter(), module.training
        module.eval()
        utterances = data.calibration_utterances(recipe.reconstruction_utterances, recipe.seed)
        batches = [batch.to(device_of(module)) for batch in data.loader(utterances)]
        found = within_memory(sites(module, batches[0]))
        floats = FloatInputs(self.float_reference(module), found, batches, recipe.seed)
        nearness = 0.0 if recipe.ada_round else divergence(module, floats)
        while self.position < len(found):
            maps = found[self.position]
            self.treat_site_(module, maps, floats, is_last=self.position == len(found) - 1)
            if not recipe.ada_round and any(item.biases for item in maps):
                nearness = keep_if_nearer_(module, maps, floats, nearness)
            self.position += 1
            self.save()
            tell_site(module, maps, self.position, len(found))
        self.finished = True
        self.save()
        tell_all(module, len(utterances), time.perf_counter() - started)
        module.train(was_training)

    def float_reference(self, module: CTCModule) -> CTCModule:
        """The model with its quantizers off and the biases it began with."""
        reference = copy.deepcopy(module, {id(getattr(module, "_trainer", None)): None})
        reference.quantize(False)
        biases = {key: value for key, value in reference.named_parameters() if "bias" in key}
        if not self.biases:
            self.biases = {key: value.detach().cpu().clone() for key, value in biases.items()}
        for key, value in biases.items():
            value.copy_(self.biases[key])
        return reference

    def treat_site_(
        self, module: CTCModule, maps: list[LinearMap], floats: FloatInputs, is_last: bool
    ) -> None:
        """Reconstruct the maps that read the same input."""
        recipe, moments = module.recipe, collect(module, floats, maps)
        corrects = recipe.bias_correction and not (recipe.ada_round and is_last)
        done = {entry["layer"] for entry in module.reconstruction}
        for item in maps:
            if item.name not in done:
                module.reconstruction.append(self.treat_(module, item, moments[item.name], corrects))
                self.inside = {}

    def treat_(self, module: CTCModule, item: LinearMap, moments: Moments, corrects: bool) -> dict[str, Any]:
        """Round one map and take its mean error out of the bias; its entry in the report."""
        recipe, started = module.recipe, time.perf_counter()
        before, steps = item.error(moments), 0
        if recipe.ada_round:
            centred = corrects and bool(item.biases)  # else nothing takes the mean error out
            steps = self.round_(item, moments, recipe.ada_round_steps, centred)
        after = item.error(moments)
        mean_error = item.mean_error(moments).double().square().sum()
        corrected = corrects and item.correct_bias_(moments)
        return {
            "layer": item.name,
            "before": before,
            "after": after - float(mean_error) if corrected else after,
            "steps": steps,
            "frames": moments.count,
            "bias_corrected": bool(corrected),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def round_(self, item: LinearMap, moments: Moments, steps: int, centred: bool) -> int:
        """Choose the roundings of one map; the steps it took."""
        resumed = self.inside.get("layer") == item.name
        if not resumed:
            item.search_scale_(item.problem(moments, centred))
        problem = item.problem(moments, centred)
        if resumed:
            variable = item.gather(lambda _, quantizer: quantizer.ada_rounding().variable)
            first, second = (self.inside[name].to(variable.device) for name in ("first", "second"))
            state = State(variable, first, second, self.inside["step"])
        else:
            state = State(problem.first_variable())
        saved = time.perf_counter()

        def progress(state: State) -> None:
            nonlocal saved
            if time.perf_counter() - saved >= self.save_every_s:
                self.keep_inside(item, state)
                saved = time.perf_counter()

        up = optimise(problem, state, steps, progress)
        store_variable_(item, state.variable)
        for _, quantizer, share in item.scatter(up):
            quantizer.ada_rounding().choose_(share)
        return state.step

    def keep_inside(self, item: LinearMap, state: State) -> None:
        """Save in the middle of a map."""
        store_variable_(item, state.variable)
        self.inside = {
            "layer": item.name,
            "step": state.step,
            "first": state.first.clone(),
            "second": state.second.clone(),
        }
        self.save()


def within_memory(found: list[list[LinearMap]]) -> list[list[LinearMap]]:
    """The sites without products whose moments would not fit; those stay rounded to nearest, and are named."""
    for item in (item for maps in found for item in maps if item.moments_bytes > MAX_BYTES):
        rank_zero_info(
            f"not reconstructed: {item.name}, whose moments take {item.moments_bytes / 2**30:.1f} GiB (at most "
            f"{MAX_BYTES / 2**30:.0f}); it stays rounded to nearest"
        )
    fitting = [[item for item in maps if item.moments_bytes <= MAX_BYTES] for maps in found]
    return [maps for maps in fitting if maps]


def tell_site(module: CTCModule, maps: list[LinearMap], position: int, sites: int) -> None:
    """One line for a site that is done."""
    entries = module.reconstruction[-len(maps) :]
    errors = ", ".join(f"{entry['before']:.3g} -> {entry['after']:.3g}" for entry in entries)
    more = f" and {len(maps) - 1} more" if len(maps) > 1 else ""
    rank_zero_info(f"reconstructed {position}/{sites} {maps[0].name}{more}: mean squared error {errors}")


def tell_all(module: CTCModule, utterances: int, seconds: float) -> None:
    """The last line."""
    recipe, products = module.recipe, len(module.reconstruction)
    biased = sum(entry["bias_corrected"] for entry in module.reconstruction)
    why = "the last layer" if recipe.ada_round else "the posteriors did not come nearer"
    without = f" (not {products - biased}: without bias, or {why})" if recipe.bias_correction else ""
    rank_zero_info(
        f"{'AdaRound' if recipe.ada_round else 'bias correction'}: {products} products on {utterances} training "
        f"utterances in {seconds:.1f} s, {biased} biases corrected{without}"
    )


def store_variable_(item: LinearMap, variable: Tensor) -> None:
    """Copy AdaRound's variable into the quantizers' buffers."""
    for _, quantizer, share in item.scatter(variable):
        quantizer.ada_rounding().variable.copy_(share)
