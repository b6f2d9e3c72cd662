"""What lets a run be stopped at any moment: signals, checkpoints inside epochs, what a checkpoint says of its run."""

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

from qat.callbacks.run_data import data_of
from qat.runs import LAST_FILE
from qat.system.errors import UserError
from qat.tracking.csv_log import MetricsLog

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
WAIT = b"\nstopping after this step, with everything saved; press Ctrl-C again to stop at once\n"


class Stopped(SystemExit):
    """A signal ended the run; the exit status is 128 + its number, as a shell gives it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class Resumable(Callback):
    """Saves `last.ckpt` inside epochs, and stops at a signal with everything saved.

    After SIGTERM, SIGUSR1 or Ctrl-C the current step ends, everything is saved, and the exit status is 143, 138 or 130;
    a signal to one rank stops all at the same step. A second Ctrl-C stops at once. Before and after training
    (calibration, AdaRound, evaluation) the process exits at once: what can be resumed there is on disk already.

    Args:
        run_folder: where `last.ckpt` lies.
        every_steps: optimiser steps between two checkpoints inside an epoch; None: at the ends of epochs only.
    """

    def __init__(self, run_folder: Path, every_steps: int | None = None) -> None:
        self.run_folder, self.every_steps = run_folder, every_steps
        self.received: int | None = None
        self.stopping = 0
        self.batch_conditions: dict[str, Any] = {}
        self.training = False
        self.process = os.getpid()
        self.trainer: Trainer | None = None
        self.before: dict[int, Any] = {}

    # ---------------------------------------------------------------- signals
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle the signals from here on, and write the first checkpoint."""
        self.trainer, self.process, self.received, self.stopping = trainer, os.getpid(), None, 0
        self.batch_conditions = {  # what a resumed run must share; read once, and before training seeds every batch
            **data_of(trainer).training_facts(),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "seed": torch.initial_seed(),
        }
        self.before = handle_signals(self.handle)
        if not trainer.ckpt_path:  # so that a run killed in calibration can be resumed
            trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers of before."""
        while self.before:
            signal.signal(*self.before.popitem())
        self.trainer = None

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal, or stop at once where no training step is running."""
        if os.getpid() != self.process:  # a worker that was forked with this handler
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if signum == self.received == signal.SIGINT:
            self.training = False
        elif (
            signum == signal.SIGINT
            and self.training
            and (self.trainer is None or self.trainer.is_global_zero)
        ):
            os.write(2, WAIT)  # a handler must not print: it may have interrupted a print
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
            resume = f"resume with --run {self.run_folder.name} --ckpt_path last"
            print(f"stopped by {name} after step {step}; {resume}", file=sys.stderr, flush=True)
        raise Stopped(signum)

    # ---------------------------------------------------------------- in training
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the current step ends before a signal is obeyed; Lightning has replaced our handlers by now."""
        handle_signals(self.handle)
        self.training = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the step before was the last: its metrics are logged by now."""
        if self.stopping:
            self.stop(self.stopping)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a checkpoint is due, and where a signal has come.

        Lightning logs a step after this hook, thus after any checkpoint of it, so its row is passed on beforehand. The
        last batch of an epoch is left to the checkpoint at the epoch's end, which includes the validation.
        """
        pass_on_step_row(trainer)
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self.asked(trainer)
        if asked or (self.every_steps and trainer.global_step % self.every_steps == 0):
            trainer.save_checkpoint(self.run_folder / LAST_FILE, weights_only=False)
        self.stopping = asked

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Obey a signal that came during the last batch or its validation: the epoch's checkpoint is written by now."""
        if trainer.current_epoch and (asked := self.asked(trainer)):
            self.stop(asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As at the start of an epoch; from here on a signal is obeyed at once."""
        asked = self.asked(trainer)
        self.training = False
        if asked:
            self.stop(asked)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """No step is running any more."""
        self.training = False

    def asked(self, trainer: Trainer) -> int:
        """The signal that any rank has received, 0 for none; all ranks ask at one place and get the same answer."""
        if trainer.world_size == 1:
            return self.received or 0
        own = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(own, reduce_op="max"))

    # ---------------------------------------------------------------- what a checkpoint says
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what decides how the run continues besides its model."""
        checkpoint["course"] = self.batch_conditions
        checkpoint["logged"] = [row for log in metrics_logs(trainer) for row in log.state()]
        checkpoint["processes"] = trainer.world_size
        checkpoint["inside_epoch"] = data_of(trainer).inside_epoch
        if (teacher := getattr(pl_module, "teacher", None)) is not None:
            checkpoint["teacher_sha256"] = teacher.sha256

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to resume inside an epoch with another number of processes, which would divide it differently.

        Raises:
            UserError: naming both numbers.
        """
        processes = checkpoint.get("processes", trainer.world_size)
        if checkpoint.get("inside_epoch") and processes != trainer.world_size:
            raise UserError(
                f"--ckpt_path: {trainer.world_size} processes must be {processes}, as the checkpoint was written "
                "inside an epoch; from the checkpoint of an epoch's end any number may resume"
            )


def metrics_logs(trainer: Trainer) -> list[MetricsLog]:
    """The logger of `metrics.csv`, where there is one."""
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsLog)]


def pass_on_step_row(trainer: Trainer) -> None:
    """Give the log the row of a step that Lightning is about to write (its `update_train_step_metrics`)."""
    connector, loop = trainer._logger_connector, trainer.fit_loop
    if connector.should_update_logs and not loop._should_accumulate() and (row := connector.metrics["log"]):
        for log in metrics_logs(trainer):
            log.expect({**row, "epoch": trainer.current_epoch}, loop.epoch_loop._batches_that_stepped)


def handle_signals(handler: Any) -> dict[int, Any]:
    """Set the handler of our signals, and return those set before; outside the main thread none can be set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}
