"""Ranks that drift apart stop the run."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from qat.layers.state import state_hash
from qat.system.errors import UserError
from qat.system.ranks import gather_from_all, rank_and_world


class RanksAgree(Callback):
    """Compares the quantizers of all ranks before training and at the end of every epoch.

    Scales follow weights, and weights follow averaged gradients: one rank that computes something else would
    stay unseen, training half a model.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After calibration and AdaRound."""
        check_ranks_agree(pl_module, "before training")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint is written."""
        check_ranks_agree(pl_module, f"after epoch {trainer.current_epoch + 1}")


def check_ranks_agree(module: nn.Module, when: str) -> None:
    """Compare the state of all quantizers over all ranks.

    Raises:
        UserError: a rank differs from rank 0; on every rank, naming the first that does.
    """
    if rank_and_world()[1] == 1:
        return
    hashes = gather_from_all(state_hash(module))
    for rank, found in enumerate(hashes):
        if found != hashes[0]:
            raise UserError(
                f"{when}: the quantizers of rank {rank} differ from those of rank 0 (hash {found[:12]} and "
                f"{hashes[0][:12]}): all ranks must hold one model; resume from the last checkpoint"
            )
