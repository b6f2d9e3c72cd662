"""Ranks that drift apart stop the run."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from qat.ranks import check_ranks_agree


class RanksAgree(Callback):
    """Compares the quantizers of all ranks before training and at the end of every epoch.

    Scales follow weights, and weights follow averaged gradients: one rank that computes something else would go on
    unseen, training half a model.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After calibration and AdaRound."""
        check_ranks_agree(pl_module, "before training")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint is written."""
        check_ranks_agree(pl_module, f"after epoch {trainer.current_epoch + 1}")
