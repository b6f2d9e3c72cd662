"""A run that has diverged stops, before a broken checkpoint takes the place of a good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from qat.models.checkpoint import first_not_finite
from qat.system.errors import UserError

NEVER = torch.iinfo(torch.int64).max  # later than any step
WATCHED = ("loss", "gradient")
READ_EVERY = 50  # steps at most between two looks at what a GPU found


class StaysFinite(Callback):
    """Stops at the first loss, gradient or weight that is NaN or infinite, and names the optimiser step.

    Losses and gradients are looked at in every step, where they lie. On a GPU what was found is read every
    `log_every_n_steps` steps, for which Lightning waits anyway, and before a checkpoint is written, the weights then as
    well. Where gradients are scaled (`16-mixed`), infinite ones are the scaler's to skip.

    Args:
        run_folder: the run's folder, for the message.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.first: Tensor | None = None  # step of the first loss and gradient `(2,)` that was not finite

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at a loss."""
        self.note(0, loss.detach().isfinite().all(), trainer.global_step + 1)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the gradients, before they are clipped."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            largest = torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
            self.note(1, largest.isfinite(), trainer.global_step + 1)

    def note(self, what: int, finite: Tensor, step: int) -> None:
        """Remember the step if it is the first; nothing is read back from a GPU."""
        if self.first is None:
            self.first = torch.full((len(WATCHED),), NEVER, dtype=torch.int64, device=finite.device)
        now = torch.full((), NEVER, dtype=torch.int64, device=finite.device).masked_fill(~finite, step)
        self.first[what] = torch.minimum(self.first[what], now)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where a step of this or the last few batches was not finite.

        Raises:
            UserError: naming the step.
        """
        every = min(getattr(trainer, "log_every_n_steps", 0) or READ_EVERY, READ_EVERY)
        on_cpu = self.first is None or self.first.device.type == "cpu"
        alone = trainer.world_size == 1
        if (on_cpu and alone) or trainer.is_last_batch or (batch_idx + 1) % every == 0:
            self.check_steps(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where the dev loss shows that the last step was one too many.

        Raises:
            UserError: naming the step.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not bool(loss.isfinite().all()):
            self.refuse("dev loss", trainer.global_step, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check all steps up to now and the weights; Lightning asks before it writes.

        Raises:
            UserError: naming the step.
        """
        self.check_steps(trainer, pl_module)
        if name := first_not_finite(pl_module):
            self.refuse(f"weight {name}", trainer.global_step, pl_module)

    def check_steps(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where a loss or gradient of any rank was not finite; all ranks ask at one place.

        Raises:
            UserError: naming the step.
        """
        if self.first is None:
            return
        first = self.first
        if trainer.world_size > 1:
            first = trainer.strategy.reduce(first.clone(), reduce_op="min")
        for what, step in zip(WATCHED, first.tolist(), strict=True):
            if step == min(first.tolist()) != NEVER:
                self.refuse(what, step, pl_module)

    def refuse(self, what: str, step: int, pl_module: LightningModule) -> None:
        """Stop the run.

        Raises:
            UserError: always.
        """
        rate = getattr(getattr(pl_module, "options", None), "learning_rate", None)
        kept = [path.name for path in sorted(self.run_folder.glob("*.ckpt"))]
        safe = f"; the checkpoints in {self.run_folder} ({', '.join(kept)}) stay as they were" if kept else ""
        raise UserError(
            f"step {step}: the {what} is NaN or infinite, and must be finite; start again with a lower "
            f"--model.learning_rate ({rate}) or with --trainer.gradient_clip_val{safe}"
        )
