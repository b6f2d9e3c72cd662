"""Ranks that drift apart stop the run."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from qat.layers.state import state_hash
from qat.system.errors import UserError
from qat.system.ranks import gather_from_all, rank_and_world


class RanksAgree(Callback):
    """Compares the quantizers of all ranks before training and at the end of every epoch.

    Scales follow weights, and weights follow averaged gradients: one rank that computes something else would
    stay unseen, training half a model.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything is computed."""
        check_same_layers(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After calibration and AdaRound."""
        check_ranks_agree(pl_module, "before training")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint is written."""
        check_ranks_agree(pl_module, f"after epoch {trainer.current_epoch + 1}")


def check_same_layers(trainer: Trainer, module: nn.Module) -> None:
    """Refuse LayerDrop where ranks wait for gradients of layers that another rank has left out: they wait for ever.

    Raises:
        UserError: the model drops layers, and the strategy does not look for parameters without a gradient.
    """
    if trainer.world_size == 1 or not isinstance(trainer.strategy, DDPStrategy):
        return
    shares = [getattr(getattr(item, "config", None), "layerdrop", 0.0) for item in module.modules()]
    if any(shares) and not trainer.strategy._ddp_kwargs.get("find_unused_parameters"):
        raise UserError(
            f"layerdrop: {max(shares)}, must be 0 in {trainer.world_size} processes, which would drop different "
            "layers; or give --trainer.strategy ddp_find_unused_parameters_true"
        )


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
