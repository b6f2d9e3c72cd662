"""The report at the end of a run."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from datamodules.base import SpeechDataModule
from qat.callbacks.run_data import data_of
from qat.evaluation.graphs import exports_in
from qat.evaluation.options import EvaluationOptions
from qat.report.build import report_checkpoint
from qat.report.row import Row
from qat.report.utterance_files import load_worst
from qat.runs import CONFIG_FILE, MODEL_FILE, SEARCH_FOLDER, WORST_FILE, read_config
from qat.tracking.wandb_names import REPORT_FILES
from qat.tracking.wandb_report import log_report


class FinalEvaluation(Callback):
    """Measures the exported file of the model that the run has kept (`KeepModel`, which acts before).

    Args:
        run_folder: the run's folder; `config.yaml` lies there.
        options: how to measure.
    """

    def __init__(self, run_folder: Path, options: EvaluationOptions) -> None:
        self.run_folder = run_folder
        self.options = options

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure (on all ranks), write, log."""
        data = data_of(trainer)
        config = read_config(self.run_folder / CONFIG_FILE)
        rows = report_checkpoint(self.run_folder / MODEL_FILE, self.run_folder, data, config, self.options)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self.log_to_wandb(logger, rows, data)

    def log_to_wandb(self, logger: WandbLogger, rows: list[Row], data: SpeechDataModule) -> None:
        """Summary, worst utterances, pictures and exported files."""
        utterances = [item for split in data.test_splits for item in data.utterances(split)]
        searched = self.run_folder / SEARCH_FOLDER  # recipe, measurements and picture
        audio = {item.id: item.audio for item in utterances if isinstance(item.audio, Path)}
        log_report(
            logger.experiment,
            rows,
            load_worst(self.run_folder / WORST_FILE),
            audio,
            [*sorted(self.run_folder.glob("*.png")), *sorted(searched.glob("*.png"))],
            exports_in(self.run_folder),
            [*(self.run_folder / name for name in REPORT_FILES), *([searched] if searched.is_dir() else [])],
        )
