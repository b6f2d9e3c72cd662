"""Post-training calibration of all ranges from training speech."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.base import SpeechDataModule
from qat.layers import calibrate_weights_, finish_calibration_, quantizers, set_observing_
from qat.models.checkpoint import LAST_FILE, save_module
from qat.models.ctc import CTCModule
from qat.models.folding import fold_and_check
from qat.ranks import merge_observers_


class Calibrate(Callback):
    """Measures weight and activation ranges on training utterances, then switches the quantizers on.

    A restored run is already calibrated and is left alone.

    Args:
        run_folder: where the post-training-quantized twin is kept as `ptq.ckpt`, and the run as `last.ckpt`; None keeps
            neither.
    """

    def __init__(self, run_folder: Path | None = None) -> None:
        self.run_folder = run_folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate once, at the start of the fit."""
        assert isinstance(pl_module, CTCModule)
        if not pl_module.recipe.active or is_quantized(pl_module):
            return
        assert isinstance(trainer.datamodule, SpeechDataModule)  # type: ignore[attr-defined]
        rank_zero_info(str(pl_module.swap_report))
        rank_zero_info(calibrate_(pl_module, trainer.datamodule))  # type: ignore[attr-defined]
        if pl_module.recipe.fold_batch_norm == "after_calibration":
            pl_module.quantize(False)
            rank_zero_info(f"{fold_and_check(pl_module)}, after calibration: the ranges do not know of it")
            pl_module.quantize()
        if self.run_folder is None:
            return
        if trainer.is_global_zero:
            save_module(pl_module, self.run_folder / "ptq.ckpt")
        trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)


def is_quantized(module: CTCModule) -> bool:
    """Whether the quantizers are calibrated and on."""
    return any(quantizer.is_enabled for _, quantizer in quantizers(module))


@torch.no_grad()
def calibrate_(module: CTCModule, data: SpeechDataModule) -> str:
    """Calibrate in eval mode, one utterance at a time so that no padding and no batch mix can shift a range.

    Ranks share the utterances and merge what they saw, so that all get the bit-identical scales of a single process.

    Returns:
        The line to print.
    """
    started = time.perf_counter()
    recipe = module.recipe
    utterances = data.calibration_utterances(recipe.calibration_utterances, recipe.seed)
    was_training = module.training
    module.eval()
    set_observing_(module, True)
    for batch in data.loader(utterances, shard=True):
        batch = batch.to(module.device)
        module(batch.signal, batch.lengths)
    set_observing_(module, False)
    merge_observers_(module)
    calibrate_weights_(module)
    finish_calibration_(module)
    module.quantize()
    module.train(was_training)
    seconds = sum(utterance.duration_s for utterance in utterances)
    return (
        f"calibrated {sum(1 for _ in quantizers(module))} quantizers on {len(utterances)} training utterances "
        f"({seconds / 60:.1f} min) in {time.perf_counter() - started:.1f} s: weights {recipe.weight_observer}, "
        f"activations {recipe.activation_observer}"
    )
