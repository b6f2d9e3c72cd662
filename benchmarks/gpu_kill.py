"""A callback that kills its own training run, for `benchmarks.gpu`."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, Trainer


class KillAt(Callback):
    """Kills its process with SIGKILL at the start of an optimiser step.

    Args:
        step: steps made before.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Kill where the step has come."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
