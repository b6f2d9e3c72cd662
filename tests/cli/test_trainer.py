"""What our trainer brings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from qat.cli.options import WandbOptions
from qat.cli.trainer import loggers, own_callbacks, plugins, read_whole_numbers, refuse_sharding
from qat.evaluation.options import EvaluationOptions
from qat.models.checkpoint import SafeCheckpointIO
from qat.system.errors import UserError
from qat.tracking.csv_log import MetricsLog


def config(checkpointing: bool = True) -> dict[str, Any]:
    return {"save_every_steps": 2, "trainer": {"enable_checkpointing": checkpointing}}


def names(folder: Path, checkpointing: bool, evaluated: bool, progress_bar: bool = False) -> list[str]:
    options = EvaluationOptions(enabled=evaluated)
    found = own_callbacks(folder, config(checkpointing), options, progress_bar)
    return [type(item).__name__ for item in found]


def test_callbacks_stand_in_the_order_in_which_they_act(tmp_path: Path) -> None:
    first = ["Resumable", "StaysFinite", "FoldBatchNorm", "Calibrate", "AdaRound", "RanksAgree"]
    kept = ["ModelCheckpoint", "ModelCheckpoint", "PlainProgress", "LearningRateMonitor", "KeepModel"]
    assert names(tmp_path, True, True) == [*first, *kept, "FinalEvaluation"]
    assert names(tmp_path, False, False, True) == [
        *first,
        "TQDMProgressBar",
        "LearningRateMonitor",
        "KeepModel",
    ]


@pytest.mark.parametrize("kind", [float | int | None, float | int | str | timedelta | dict[str, int] | None])
def test_whole_numbers_stay_whole_whoever_named_the_union_first(kind: Any) -> None:
    fields = ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval")
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Trainer, "trainer")
    for action in parser._actions:
        if action.dest.removeprefix("trainer.") in fields:
            vars(action)["_typehint"] = kind

    def parsed(text: str) -> list[Any]:
        flags = [item for name in fields for item in (f"--trainer.{name}", text)]
        return [parser.parse_args(flags).trainer[name] for name in fields]

    assert all(type(value) is float for value in parsed("1")), "a parser tries the types in their order"
    read_whole_numbers(parser)
    assert all(type(value) is int for value in parsed("1"))
    assert all(type(value) is float for value in parsed("1.0"))
    assert parser.parse_args(["--trainer.limit_val_batches", "null"]).trainer.limit_val_batches is None


def test_the_csv_log_is_always_written(tmp_path: Path) -> None:
    rows = [{"step": 1, "train/loss": 2.0}]
    found = loggers(tmp_path, WandbOptions(enabled=False), {}, rows)
    assert [type(item) for item in found] == [MetricsLog]


def test_slurm_is_taken_where_it_started_us_and_no_other_cluster_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [type(item) for item in plugins([])] == [SafeCheckpointIO]
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    assert [type(item) for item in plugins([])] == [SafeCheckpointIO, SLURMEnvironment]
    assert [type(item) for item in plugins([LightningEnvironment()])] == [
        SafeCheckpointIO,
        LightningEnvironment,
    ]


@pytest.mark.parametrize(
    "strategy", [None, "auto", "ddp", "ddp_find_unused_parameters_true", {"class_path": "DDP"}]
)
def test_strategies_with_whole_weights_are_taken(strategy: Any) -> None:
    refuse_sharding(strategy)


@pytest.mark.parametrize("strategy", ["fsdp", {"class_path": "x.ModelParallelStrategy"}])
def test_strategies_that_shard_weights_are_refused(strategy: Any) -> None:
    with pytest.raises(UserError, match="--trainer.strategy .*: must be auto, ddp or one of its variants"):
        refuse_sharding(strategy)
