"""AdaRound and bias correction in a run: when, and kept in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from qat.callbacks.run_data import data_of
from qat.layers.state import move_weights_to_levels_
from qat.methods.ada_round import SAVE_EVERY_S, Reconstruction
from qat.models.ctc import CTCModule
from qat.runs import LAST_FILE


class AdaRound(Callback):
    """Runs `Reconstruction` once, after calibration and before training.

    The state is kept in `last.ckpt` at every layer, and once a minute inside one (in one process): a killed run resumes
    with `--ckpt_path last` and ends with the same bits.

    Args:
        run_folder: where `last.ckpt` is kept; None keeps none.
        save_every_s: seconds between two checkpoints inside a layer.
    """

    def __init__(self, run_folder: Path | None = None, save_every_s: float = SAVE_EVERY_S) -> None:
        self.run_folder, self.save_every_s = run_folder, save_every_s
        self.reconstruction = Reconstruction()

    def state_dict(self) -> dict[str, Any]:
        """That of the reconstruction."""
        return self.reconstruction.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        self.reconstruction.load_state_dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do the layers that are not done yet, then hand the weights to training."""
        assert isinstance(pl_module, CTCModule)
        recipe, work = pl_module.recipe, self.reconstruction
        if not recipe.active or not (recipe.ada_round or recipe.bias_correction):
            return
        if not work.finished:
            # saving is a common act, and clocks of two ranks differ
            work.save_every_s = self.save_every_s if trainer.world_size == 1 else float("inf")
            work.save = lambda: self.save(trainer)
            work.run_(pl_module, data_of(trainer))
        if recipe.fine_tune:
            move_weights_to_levels_(pl_module)

    def save(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; all ranks take part."""
        if self.run_folder is not None:
            trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)
