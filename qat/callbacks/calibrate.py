"""Equalization of channels and post-training calibration of all ranges, from training speech."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from qat.callbacks.run_data import data_of
from qat.methods.calibrate import calibrate_, is_quantized
from qat.methods.equalize import equalize_and_check
from qat.methods.fold_batch_norm import fold_and_check
from qat.models.ctc import CTCModule
from qat.models.loading import save_module
from qat.runs import LAST_FILE, PTQ_FILE


class Calibrate(Callback):
    """Measures weight and activation ranges on training utterances, then switches the quantizers on.

    Channels are equalized first, where the recipe says so.

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
        rank_zero_info(str(pl_module.swap_report))
        if pl_module.recipe.equalizes and not pl_module.equalized:
            rank_zero_info(equalize_and_check(pl_module, data_of(trainer)))
        rank_zero_info(calibrate_(pl_module, data_of(trainer)))
        if pl_module.recipe.fold_batch_norm == "after_calibration":
            pl_module.quantize(False)
            rank_zero_info(f"{fold_and_check(pl_module)}, after calibration: the ranges do not know of it")
            pl_module.quantize()
        if self.run_folder is None:
            return
        if trainer.is_global_zero:
            save_module(pl_module, self.run_folder / PTQ_FILE)
        trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)
