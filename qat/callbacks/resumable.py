"""What lets a run be stopped at any moment: signals, checkpoints inside epochs, what a checkpoint tells of its run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from qat.runs import LAST_FILE
from qat.system.errors import UserError
from qat.tracking.csv_log import MetricsLog

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """A signal ended the run; the exit status is 128 + its number, as a shell gives it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class Resumable(Callback):
    """Saves `last.ckpt` inside epochs, and stops at a signal with everything saved.

    SIGTERM and SIGUSR1 let the step in work end, save, and exit with 143 or 138; a signal to one rank stops all at the
    same step. Before and after training (calibration, AdaRound, evaluation) they exit at once: what can be resumed
    there is on disk already.

    Args:
        run_folder: where `last.ckpt` lies.
        every_steps: optimiser steps between two checkpoints inside an epoch; None: at the ends of epochs only.
    """

    def __init__(self, run_folder: Path, every_steps: int | None = None) -> None:
        self.run_folder, self.every_steps = run_folder, every_steps
        self.received: int | None = None
        self.stopping = 0
        self.course: dict[str, Any] = {}
        self.training = False
        self.process = os.getpid()
        self.trainer: Trainer | None = None
        self.before: dict[int, Any] = {}

    # ---------------------------------------------------------------- signals
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, and write the first checkpoint."""
        self.trainer, self.process, self.received, self.stopping = trainer, os.getpid(), None, 0
        self.course = {  # what a resumed run must share; read once, and before training seeds every batch
            **trainer.datamodule.training_facts(),  # type: ignore[attr-defined]
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "seed": torch.initial_seed(),
        }
        self.before = take(self.handle)
        if not trainer.ckpt_path:  # so that a run killed in calibration can be resumed
            trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self.before:
            signal.signal(*self.before.popitem())
        self.trainer = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal, or stop at once where no step is in work."""
        if os.getpid() != self.process:  # a worker that was forked with this handler
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        self.received = signum
        if not self.training:
            self.stop(signum)

    def stop(self, signum: int) -> None:
        """End this process, and those that it has launched.

        Raises:
            Stopped: always.
        """
        trainer, step = self.trainer, 0
        if trainer is not None:
            step = trainer.global_step
            if not self.training and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signum)  # type: ignore[attr-defined]
        if trainer is None or trainer.is_global_zero:
            name = signal.Signals(signum).name
            say(
                f"stopped by {name} after step {step}; go on with --run {self.run_folder.name} --ckpt_path last"
            )
        raise Stopped(signum)

    # ---------------------------------------------------------------- in training
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a step ends before a signal is obeyed (by us: Lightning has set its own handlers by now)."""
        take(self.handle)
        self.training = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the checkpoint of the step before was the last: its metrics are logged by now."""
        if self.stopping:
            self.stop(self.stopping)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due, and where a signal has come.

        Lightning logs the step behind this hook, thus behind any checkpoint of it; what it will log is announced. The
        last batch of an epoch is left to the checkpoint of the epoch's end, which has the validation too.
        """
        announce(trainer)
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self.asked(trainer)
        if asked or (self.every_steps and trainer.global_step % self.every_steps == 0):
            trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)
        self.stopping = asked

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A signal that came during the last batch or the validation before: the epoch's checkpoint is written."""
        if trainer.current_epoch and (asked := self.asked(trainer)):
            self.stop(asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As at the start of an epoch; from here on a signal is obeyed at once."""
        asked = self.asked(trainer)
        self.training = False
        if asked:
            self.stop(asked)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Nothing is in work any more."""
        self.training = False

    def asked(self, trainer: Trainer) -> int:
        """The signal that any rank has received; 0 for none. All ranks ask at the same place, and hear the same."""
        if trainer.world_size == 1:
            return self.received or 0
        own = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(own, reduce_op="max"))

    # ---------------------------------------------------------------- what a checkpoint tells
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what decides how the run goes on besides its model."""
        checkpoint["course"] = self.course
        checkpoint["logged"] = [row for log in metrics_logs(trainer) for row in log.state()]
        checkpoint["processes"] = trainer.world_size
        checkpoint["inside_epoch"] = trainer.datamodule.inside_epoch  # type: ignore[attr-defined]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on inside an epoch with another number of processes, which would share it out anew.

        Raises:
            UserError: naming both numbers.
        """
        processes = checkpoint.get("processes", trainer.world_size)
        if checkpoint.get("inside_epoch") and processes != trainer.world_size:
            raise UserError(
                f"--ckpt_path: the checkpoint was written inside an epoch by {processes} processes, and this run has "
                f"{trainer.world_size}; allowed is the same number (any, from a checkpoint of an epoch's end)"
            )


def metrics_logs(trainer: Trainer) -> list[MetricsLog]:
    """The logger of `metrics.csv`, where there is one."""
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsLog)]


def announce(trainer: Trainer) -> None:
    """Tell the log the row of a step that Lightning is about to write (its `update_train_step_metrics`)."""
    connector, loop = trainer._logger_connector, trainer.fit_loop
    if connector.should_update_logs and not loop._should_accumulate() and (row := connector.metrics["log"]):
        for log in metrics_logs(trainer):
            log.expect({**row, "epoch": trainer.current_epoch}, loop.epoch_loop._batches_that_stepped)


def take(handler: Any) -> dict[int, Any]:
    """Set the handler of our signals; those before. Only the main thread can: elsewhere nothing is set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)
