"""Fold BatchNorm into the layer before it, before anything is calibrated."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from qat.methods.fold_batch_norm import fold_and_check
from qat.models.ctc import CTCModule


class FoldBatchNorm(Callback):
    """Folds when the recipe says `fold_batch_norm`, and checks that the float output stays the same.

    Runs in `setup`: after the model is built, before Lightning restores a checkpoint (which then fits, because
    a resumed model is folded as well) and before the strategy wraps the model.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fold once; say how many."""
        assert isinstance(pl_module, CTCModule)
        if stage != "fit" or not (pl_module.recipe.active and pl_module.recipe.fold_batch_norm is True):
            return
        if not pl_module.folded:
            rank_zero_info(fold_and_check(pl_module))
