"""The model that a finished run keeps."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from qat.callbacks.run_data import data_of
from qat.methods.re_estimate import re_estimate_batch_norm_
from qat.models.checkpoint import read_checkpoint
from qat.models.ctc import CTCModule
from qat.models.loading import save_module
from qat.runs import MODEL_FILE


class KeepModel(Callback):
    """Keeps the weights of the best epoch as `model.ckpt`, its BatchNorm re-estimated where the recipe asks.

    Args:
        run_folder: the run's folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load, re-estimate (on all ranks), save (on the first)."""
        assert isinstance(pl_module, CTCModule)
        best = self.run_folder / "best.ckpt"
        if best.is_file():
            pl_module.load_state_dict(read_checkpoint(best)["state_dict"])
        if pl_module.recipe.re_estimate_batch_norm:
            rank_zero_info(re_estimate_batch_norm_(pl_module, data_of(trainer)))
        if trainer.is_global_zero:
            save_module(pl_module, self.run_folder / MODEL_FILE)
        trainer.strategy.barrier()
