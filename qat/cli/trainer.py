"""What our trainer brings: callbacks, loggers and plugins."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from qat.callbacks.ada_round import AdaRound
from qat.callbacks.agreement import RanksAgree
from qat.callbacks.calibrate import Calibrate
from qat.callbacks.finite import StaysFinite
from qat.callbacks.fold import FoldBatchNorm
from qat.callbacks.keep_model import KeepModel
from qat.callbacks.plain_progress import PlainProgress
from qat.callbacks.resumable import Resumable
from qat.cli.options import WandbOptions
from qat.evaluation.options import EvaluationOptions
from qat.models.checkpoint import SafeCheckpointIO
from qat.system.errors import UserError
from qat.tracking.csv_log import MetricsLog, replay
from qat.tracking.wandb_log import wandb_logger
from qat.tracking.wandb_names import group_of

SHARDING = ("fsdp", "deepspeed", "model_parallel", "modelparallel")


def read_whole_numbers(parser: LightningArgumentParser) -> None:
    """Let a parser read `--trainer.limit_train_batches 4` as 4, never as 4.0, which is a share of the batches.

    `typing` keeps one order for a union of some types: that of whoever names it first in the process. Where another
    library came before Lightning with float and int, the parser tries float first. A union made by `|` keeps its own.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if {int, float} <= set(kinds):
            ordered = sorted(kinds, key=lambda kind: (kind is not int, kind is not float))
            vars(action)["_typehint"] = reduce(or_, ordered)


def own_callbacks(
    run_folder: Path, config: Any, evaluation: EvaluationOptions, progress_bar: bool
) -> list[Callback]:
    """Our callbacks in the order in which they act.

    Args:
        run_folder: where they write.
        config: the parsed configuration.
        evaluation: how the report is measured; what measures it is imported only where this is enabled.
        progress_bar: a bar, or plain lines.
    """
    callbacks: list[Callback] = [
        Resumable(run_folder, config["save_every_steps"]),
        StaysFinite(run_folder),
        FoldBatchNorm(),
        Calibrate(run_folder),
        AdaRound(run_folder),
        RanksAgree(),
    ]
    if config["trainer"]["enable_checkpointing"] is not False:
        callbacks += checkpoint_callbacks(run_folder)
    callbacks += [TQDMProgressBar() if progress_bar else PlainProgress(), LearningRateMonitor("step")]
    callbacks.append(KeepModel(run_folder))
    if evaluation.enabled:
        from qat.callbacks.final_evaluation import FinalEvaluation

        callbacks.append(FinalEvaluation(run_folder, evaluation))
    return callbacks


def checkpoint_callbacks(folder: Path) -> list[Callback]:
    """Keep `best.ckpt` (lowest dev WER) and `last.ckpt` (after every epoch, better or not)."""
    best = ModelCheckpoint(
        dirpath=folder, filename="best", monitor="val/wer", mode="min", enable_version_counter=False
    )
    last = ModelCheckpoint(
        dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]


def loggers(
    run_folder: Path, options: WandbOptions, config: dict[str, Any], logged: list[dict[str, Any]]
) -> list[Logger]:
    """CSV always; Weights & Biases when it is available.

    Args:
        run_folder: where they write.
        options: of Weights & Biases.
        config: the whole configuration as builtins.
        logged: rows of the log up to the checkpoint that the run resumes from.
    """
    found: list[Logger] = [MetricsLog(run_folder, logged)]
    if options.enabled:
        logger = wandb_logger(
            run_folder,
            project=options.project,
            name=run_folder.name,
            group=group_of(config),
            config=config,
            offline=options.offline,
        )
        if logger is not None:
            replay(logger, logged)  # it takes those that it does not have yet
            found.append(logger)
    return found


def plugins(configured: list[Any]) -> list[Any]:
    """Checkpoints written whole or not at all, the configured plugins, and SLURM where none of them is a cluster."""
    clusters = [] if any(isinstance(item, ClusterEnvironment) for item in configured) else cluster()
    return [SafeCheckpointIO(), *configured, *clusters]


def cluster() -> list[ClusterEnvironment]:
    """SLURM, where it started this process: `Resumable` saves at its signal, and `docs/slurm.sh` requeues the job."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []


def refuse_sharding(strategy: Any) -> None:
    """Strategies that cut weights into pieces cannot work with quantizers, which need whole output channels.

    Raises:
        UserError: naming the strategy and those that work.
    """
    name = strategy if isinstance(strategy, str) else str((strategy or {}).get("class_path", ""))
    if any(word in name.lower() for word in SHARDING):
        raise UserError(
            f"--trainer.strategy {name}: must be auto, ddp or one of its variants; it shards the weights, and ranges, "
            "AdaRound and learned scales need each output channel whole"
        )
