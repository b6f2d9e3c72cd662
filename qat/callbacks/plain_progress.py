"""Progress as plain lines where no terminal shows a bar."""

from __future__ import annotations

import time

from lightning.pytorch import Callback, LightningModule, Trainer


class PlainProgress(Callback):
    """Prints one line after each validation: epoch, steps, loss, dev WER, learning rate, time."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line (rank zero, not in the sanity check)."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, step {trainer.global_step}: "
            f"train loss {metrics.get('train/loss', float('nan')):.4f}, "
            f"dev loss {metrics.get('val/loss', float('nan')):.4f}, dev WER {metrics.get('val/wer', 0.0):.2f} %, "
            f"lr {rate:.1e}, {(time.perf_counter() - self.started) / 60:.1f} min",
            flush=True,
        )
