"""Command line of train.py: model, data and trainer from configuration files and flags."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from datamodules.base import SpeechDataModule
from qat.callbacks.ada_round import AdaRound
from qat.callbacks.agreement import RanksAgree
from qat.callbacks.calibrate import Calibrate
from qat.callbacks.final_evaluation import FinalEvaluation
from qat.callbacks.fold import FoldBatchNorm
from qat.callbacks.plain_progress import PlainProgress
from qat.callbacks.resumable import Resumable
from qat.cli.flags import OneLineParser, expand_presets
from qat.cli.resume import check_same_course, check_same_run, read_last
from qat.evaluation.options import EvaluationOptions
from qat.models.checkpoint import SafeCheckpointIO, read_checkpoint
from qat.models.ctc import CTCModule
from qat.models.loading import load_teacher_
from qat.recipe import Recipe
from qat.runs import CONFIG_FILE, METRICS_FILE, choose_run_folder, make_run_folder
from qat.system.errors import UserError
from qat.system.files import write_text
from qat.system.ranks import launched_rank
from qat.tracking.csv_log import MetricsLog, replay, rows_before
from qat.tracking.wandb_log import wandb_logger
from qat.tracking.wandb_names import PROJECT, group_of

SHARDING = ("fsdp", "deepspeed", "model_parallel", "modelparallel")


@dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases logging.

    Args:
        enabled: log there at all (offline when no key is set; CSV is always written).
        project: project name.
        group: group of comparable runs; None takes the configuration's name.
        offline: True never uses the network, False always, None decides by the key.
    """

    enabled: bool = True
    project: str = PROJECT
    group: str | None = None
    offline: bool | None = None


class SpeechCLI(LightningCLI):
    """Builds model, data and trainer from configuration files and flags."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own arguments beside Lightning's."""
        parser.add_argument("--run", type=str | None, default=None, help="name of the run folder")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="last, best or a checkpoint")
        parser.add_argument(
            "--save_every_steps",
            type=PositiveInt | None,
            default=None,
            help="optimiser steps between two checkpoints inside an epoch; null: at the ends of epochs only",
        )
        parser.add_class_arguments(Recipe, "qat")
        parser.add_class_arguments(EvaluationOptions, "evaluation")
        parser.add_class_arguments(WandbOptions, "wandb")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, check the recipe, and hand it to the model."""
        super().parse_arguments(parser, args)
        self.config["model"]["init_args"]["recipe"] = recipe_builtins(self.config["qat"])

    def before_instantiate_classes(self) -> None:
        """Choose the run folder before anything expensive is built."""
        if self.config["qat"]["preset"] != "off" and not self.config["qat"]["fine_tune"]:
            self.config["trainer"]["max_epochs"] = 0  # calibration only
        self.run_folder = choose_run_folder(self.config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Trainer with our loggers and callbacks in front of the configured ones.

        Everything that a user may have got wrong is checked before the run folder is made.
        """
        refuse_sharding(self.config["trainer"]["strategy"])
        self.checkpoint = self.resume_path()
        self.datamodule.check()
        load_teacher_(self.model)
        make_run_folder(self.run_folder)
        options = self.config_init["trainer"]
        bar = sys.stderr.isatty() and options.get("enable_progress_bar") is not False
        ours: list[Callback] = [
            Resumable(self.run_folder, self.config["save_every_steps"]),
            FoldBatchNorm(),
            Calibrate(self.run_folder),
            AdaRound(self.run_folder),
            RanksAgree(),
        ]
        if self.config["trainer"]["enable_checkpointing"] is not False:
            ours += checkpoint_callbacks(self.run_folder)
        ours += [TQDMProgressBar() if bar else PlainProgress(), LearningRateMonitor("step")]
        if self.config["evaluation"]["enabled"]:
            ours.append(FinalEvaluation(self.run_folder, self.config_init["evaluation"]))
        theirs, plugins = as_list(options.get("callbacks")), as_list(options.get("plugins"))
        plugins += [] if any(isinstance(item, ClusterEnvironment) for item in plugins) else cluster()
        return super().instantiate_trainer(
            logger=self.loggers(),
            callbacks=ours + theirs,
            plugins=[SafeCheckpointIO(), *plugins],
            enable_progress_bar=bar,
            enable_model_summary=False,
            default_root_dir=str(self.run_folder),
            use_distributed_sampler=False,
            **kwargs,
        )

    def loggers(self) -> list[Logger]:
        """CSV always; Weights & Biases when it can be had."""
        loggers: list[Logger] = [MetricsLog(self.run_folder, self.logged)]
        options = self.config_init["wandb"]
        if options.enabled:
            logger = wandb_logger(
                self.run_folder,
                project=options.project,
                name=self.run_folder.name,
                group=group_of(self.plain_config()),
                config=self.plain_config(),
                offline=options.offline,
            )
            if logger is not None:
                replay(logger, self.logged)  # it takes those that it does not have yet
                loggers.append(logger)
        return loggers

    def plain_config(self) -> dict[str, Any]:
        """The whole configuration as nested builtins."""
        text = self.parser.dump(self.config, skip_link_targets=True, skip_none=False, format="yaml")
        config = yaml.safe_load(text)
        config.pop("config", None)
        config["model"]["init_args"].pop("recipe", None)  # `qat` says it
        return config

    def save_config(self) -> None:
        """Write `config.yaml` into the run folder (rank zero, atomically)."""
        if launched_rank() != 0:
            return
        write_text(self.run_folder / CONFIG_FILE, yaml.safe_dump(self.plain_config(), sort_keys=False))

    def resume_path(self) -> str | None:
        """The checkpoint to resume from, checked against this run's model, recipe and data.

        Raises:
            UserError: there is none, it cannot be read, or it is another run's.
        """
        self.logged: list[dict[str, Any]] = []
        choice = self.config["ckpt_path"]
        if choice is None:
            return None
        path = self.run_folder / f"{choice}.ckpt" if choice in ("last", "best") else Path(choice)
        if not path.is_file():
            raise UserError(
                f"--ckpt_path {choice}: {self.run_folder if choice in ('last', 'best') else path} "
                f"holds no {path.name}"
            )
        checkpoint = read_last(path) if choice == "last" else read_checkpoint(path)
        check_same_run(self.model, checkpoint, path)
        check_same_course(checkpoint, path, self.course())
        old = rows_before(self.run_folder / METRICS_FILE, checkpoint["global_step"])
        self.logged = checkpoint.get("logged", old)  # an older version's checkpoint has none
        return str(path)

    def course(self) -> dict[str, Any]:
        """What decides the batches of training, as `Resumable` keeps it in checkpoints."""
        trainer = self.config_init["trainer"]
        seeded = self.config["seed_everything"] is not False
        return {
            **self.datamodule.training_facts(),
            "accumulate_grad_batches": trainer.accumulate_grad_batches or 1,
            **({"seed": torch.initial_seed()} if seeded else {}),
        }


def build_cli(args: Sequence[str]) -> SpeechCLI:
    """Parse `args` (never changing `sys.argv`, which Lightning runs again for every DDP process) and build."""
    quieten()
    try:
        return build(expand_presets(args))
    except Exception as error:  # the parser buries what a model or data module said about its arguments
        raise buried_user_error(error) or error from None


def buried_user_error(error: BaseException | None) -> UserError | None:
    """The first `UserError` in a chain of causes."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def build(args: list[str]) -> SpeechCLI:
    """The parsed command line with model, data and trainer."""
    return SpeechCLI(
        CTCModule,
        SpeechDataModule,
        save_config_callback=None,
        seed_everything_default=1,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=OneLineParser,
        args=args,
        run=False,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def quieten() -> None:
    """Hide library chatter that tells a user nothing about the run."""
    for message in (
        "LightningCLI's args parameter",
        ".*exists and is not empty",
        ".*smaller than the logging interval",
        ".*does not have many workers",
        ".*could not find the monitored key",
        ".*is deprecated, use `isinstance",
        ".*dropout option adds dropout after all but last",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: (
            not any(word in record.getMessage() for word in ("litlogger", "TPU", "Loading `train_data"))
        )
    )


def recipe_builtins(recipe: Any) -> dict[str, Any]:
    """The parsed recipe as builtins, which every checkpoint can carry.

    Raises:
        UserError: a value that is not allowed.
    """
    values = recipe.as_dict()
    values.pop("__path__", None)  # where the parser read a preset from
    return Recipe.from_dict(values).to_dict()


def refuse_sharding(strategy: Any) -> None:
    """Strategies that cut weights into pieces cannot work with quantizers, which need whole output channels.

    Raises:
        UserError: naming the strategy and those that work.
    """
    name = strategy if isinstance(strategy, str) else str((strategy or {}).get("class_path", ""))
    if any(word in name.lower() for word in SHARDING):
        raise UserError(
            f"--trainer.strategy {name}: it shards the weights, and ranges, AdaRound and learned scales need each "
            "output channel whole; allowed are auto, ddp and its variants"
        )


def cluster() -> list[ClusterEnvironment]:
    """SLURM, where it started this process: `Resumable` saves at its signal, and `docs/slurm.sh` requeues the job."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []


def as_list(value: Any) -> list[Any]:
    """One thing, several or none, as a list."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def checkpoint_callbacks(folder: Path) -> list[Callback]:
    """Keep `best.ckpt` (lowest dev WER) and `last.ckpt` (after every epoch, better or not)."""
    best = ModelCheckpoint(
        dirpath=folder, filename="best", monitor="val/wer", mode="min", enable_version_counter=False
    )
    last = ModelCheckpoint(
        dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]
