"""AdaRound and bias correction, layer by layer, after calibration."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.base import SpeechDataModule
from qat.layers.state import harden_
from qat.methods.float_reference import FloatInputs, collect, divergence, sites
from qat.methods.reconstruction import LinearMap, Moments
from qat.models.ctc import CTCModule
from qat.numerics.ada_round import State, optimise
from qat.runs import LAST_FILE

SAVE_EVERY_S = 60.0
MAX_BYTES = 8 * 2**30  # of one layer's moments; only a very wide grouped convolution needs more


class AdaRound(Callback):
    """Reconstructs each layer's output behind the layers already rounded (Nagel 2020, arXiv 2004.10568).

    The recipe's `ada_round` chooses the roundings, its `bias_correction` takes out what mean error is left. That error
    is mostly the one of blank frames, nearly all there are, and taken out of all frames it can cost labels: behind
    AdaRound, the last layer keeps its bias (the mini CRDNN's divergence at 3 bits doubles, while the squared error of
    its logits halves); without AdaRound, where more is left, each correction must bring the posteriors of the whole
    model nearer to the float model's or is undone (all of them more than double the mini Wav2Vec2's divergence). Layers
    follow in the order of their calls; ranks share the training utterances, read one at a time (so that no padding
    takes part), and all come to the bits of a single process. The state is kept in `last.ckpt` at every layer, and once
    a minute inside one (in one process): a killed run goes on with `--ckpt_path last` and ends with the same bits.

    Args:
        run_folder: where `last.ckpt` is kept; None keeps none.
        save_every_s: seconds between two savings inside a layer.
    """

    def __init__(self, run_folder: Path | None = None, save_every_s: float = SAVE_EVERY_S) -> None:
        self.run_folder = run_folder
        self.save_every_s = save_every_s
        self.position = 0  # sites done
        self.finished = False
        self.inside: dict[str, Any] = {}  # Adam's state of the map in work
        self.biases: dict[str, Tensor] = {}  # of the float model, which bias correction changes

    def state_dict(self) -> dict[str, Any]:
        """Where the work stands; the roundings themselves are buffers of the quantizers."""
        biases = {} if self.finished else dict(self.biases)
        inside = dict(self.inside)
        return {"position": self.position, "finished": self.finished, "inside": inside, "biases": biases}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.position, self.finished = state_dict["position"], state_dict["finished"]
        self.inside, self.biases = dict(state_dict["inside"]), dict(state_dict["biases"])

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do the layers that are not done yet, once, before training."""
        assert isinstance(pl_module, CTCModule)
        recipe = pl_module.recipe
        if not recipe.active or not (recipe.ada_round or recipe.bias_correction):
            return
        if not self.finished:
            self.work_(trainer, pl_module)
        if recipe.fine_tune:
            harden_(pl_module)

    def work_(self, trainer: Trainer, pl_module: CTCModule) -> None:
        """Reconstruct in eval mode, saving as the run allows it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, SpeechDataModule)
        was_training = pl_module.training
        pl_module.eval()
        if trainer.world_size > 1:
            self.save_every_s = float("inf")  # saving is a common act, and clocks of two ranks differ
        self.reconstruct_(pl_module, data, lambda: self.save(trainer))
        pl_module.train(was_training)

    def reconstruct_(self, module: CTCModule, data: SpeechDataModule, save: Callable[[], None]) -> None:
        """All sites from `self.position` on; `save` is called whenever the state is worth keeping."""
        recipe, started = module.recipe, time.perf_counter()
        utterances = data.calibration_utterances(recipe.reconstruction_utterances, recipe.seed)
        batches = [batch.to(module.device) for batch in data.loader(utterances)]
        found = self.within_memory(sites(module, batches[0]))
        floats = FloatInputs(self.float_reference(module), found, batches, recipe.seed)
        nearness = 0.0 if recipe.ada_round else divergence(module, floats)
        while self.position < len(found):
            maps = found[self.position]
            moments = collect(module, floats, maps)
            last = self.position == len(found) - 1
            corrects = recipe.bias_correction and not (recipe.ada_round and last)
            for item in maps:
                if all(entry["layer"] != item.name for entry in module.reconstruction):
                    module.reconstruction.append(
                        self.treat_(module, item, moments[item.name], corrects, save)
                    )
                    self.inside = {}
            if not recipe.ada_round and any(item.biases for item in maps):
                nearness = self.keep_if_nearer_(module, maps, floats, nearness)
            self.position += 1
            save()
            said = module.reconstruction[-len(maps) :]
            errors = ", ".join(f"{entry['before']:.3g} -> {entry['after']:.3g}" for entry in said)
            rank_zero_info(
                f"reconstructed {self.position}/{len(found)} {maps[0].name}"
                f"{f' and {len(maps) - 1} more' if len(maps) > 1 else ''}: mean squared error {errors}"
            )
        self.finished = True
        save()
        biased = sum(entry["bias_corrected"] for entry in module.reconstruction)
        rest = len(module.reconstruction) - biased
        why = "the last layer" if recipe.ada_round else "the posteriors did not come nearer"
        without = f" (not {rest}: without bias, or {why})" if recipe.bias_correction else ""
        rank_zero_info(
            f"{'AdaRound' if recipe.ada_round else 'bias correction'}: {len(module.reconstruction)} products on "
            f"{len(utterances)} training utterances in {time.perf_counter() - started:.1f} s, "
            f"{biased} biases corrected{without}"
        )

    def within_memory(self, found: list[list[LinearMap]]) -> list[list[LinearMap]]:
        """The sites without products whose moments would not fit; those stay rounded to nearest, and are named."""
        for item in (item for maps in found for item in maps if item.moments_bytes > MAX_BYTES):
            rank_zero_info(
                f"not reconstructed: {item.name}, whose moments take {item.moments_bytes / 2**30:.1f} GiB (at most "
                f"{MAX_BYTES / 2**30:.0f}); it stays rounded to nearest"
            )
        fitting = [[item for item in maps if item.moments_bytes <= MAX_BYTES] for maps in found]
        return [maps for maps in fitting if maps]

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

    def treat_(
        self,
        module: CTCModule,
        item: LinearMap,
        moments: Moments,
        corrects: bool,
        save: Callable[[], None],
    ) -> dict[str, Any]:
        """Round one map and take its mean error out of the bias; its entry in the report."""
        recipe, started = module.recipe, time.perf_counter()
        before, steps = item.error(moments), 0
        if recipe.ada_round:
            centred = corrects and bool(item.biases)  # else nothing takes the mean error out
            steps = self.round_(item, moments, recipe.ada_round_steps, centred, save)
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

    def keep_if_nearer_(
        self, module: CTCModule, maps: Sequence[LinearMap], floats: FloatInputs, before: float
    ) -> float:
        """Undo the corrections of a site where they take the posteriors further from the float model's.

        Args:
            module: with the corrections.
            maps: of the site, the last entries of the report.
            floats: holds the float model, with the biases that the site began with.
            before: divergence without the corrections.

        Returns:
            The divergence now.
        """
        found = divergence(module, floats)
        if found < before:
            return found
        for item in maps:
            for bias, old in zip(item.biases, item.of(floats.reference).biases, strict=True):
                bias.copy_(old)
        for entry in module.reconstruction[-len(maps) :]:
            entry["after"], entry["bias_corrected"] = entry["before"], False
        return before

    def round_(
        self, item: LinearMap, moments: Moments, steps: int, centred: bool, save: Callable[[], None]
    ) -> int:
        """Choose the roundings of one map; the steps it took."""
        if self.inside.get("layer") != item.name:
            item.search_scale_(item.problem(moments, centred))
        problem = item.problem(moments, centred)
        if self.inside.get("layer") == item.name:
            variable = item.gather(lambda _, quantizer: quantizer.rounding)
            state = State(variable, self.inside["first"], self.inside["second"], self.inside["step"])
        else:
            state = State(problem.first_variable())
        saved = time.perf_counter()

        def progress(state: State) -> None:
            nonlocal saved
            if time.perf_counter() - saved >= self.save_every_s:
                store(item, state.variable)
                self.inside = {
                    "layer": item.name,
                    "step": state.step,
                    "first": state.first.clone(),
                    "second": state.second.clone(),
                }
                save()
                saved = time.perf_counter()

        up = optimise(problem, state, steps, progress)
        store(item, state.variable)
        for _, quantizer, share in item.scatter(up):
            quantizer.set_rounding_(share)
        return state.step

    def save(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; all ranks take part."""
        if self.run_folder is not None:
            trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)


def store(item: LinearMap, variable: Tensor) -> None:
    """Copy AdaRound's variable into the quantizers' buffers."""
    for _, quantizer, share in item.scatter(variable):
        quantizer.rounding.copy_(share)
