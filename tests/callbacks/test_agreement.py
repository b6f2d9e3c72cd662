"""Ranks whose quantizers differ stop the run, with one line on every rank."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from qat.callbacks import agreement
from qat.callbacks.agreement import RanksAgree, check_ranks_agree
from qat.layers.swap import swap_
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import TINY_WAV2VEC2, build


@pytest.fixture
def host() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    swap_(model, Recipe(preset="x"))
    return model


def test_one_process_agrees_with_itself(host: nn.Module) -> None:
    check_ranks_agree(host, "before training")


def test_the_first_rank_that_differs_is_named_with_both_hashes(
    host: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "rank_and_world", lambda: (0, 3))
    monkeypatch.setattr(agreement, "gather_from_all", lambda mine: [mine, mine, "f" * 64])
    with pytest.raises(UserError, match="after epoch 2: the quantizers of rank 2 differ .* ffffffffffff and"):
        check_ranks_agree(host, "after epoch 2")
    monkeypatch.setattr(agreement, "gather_from_all", lambda mine: [mine] * 3)
    check_ranks_agree(host, "after epoch 2")


def test_they_are_compared_before_training_and_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(agreement, "check_ranks_agree", lambda module, when: said.append(when))
    trainer: Any = type("Trainer", (), {"current_epoch": 4})
    callback, module = RanksAgree(), nn.Linear(1, 1)
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    assert said == ["before training", "after epoch 5"]


@pytest.mark.parametrize(
    ("layerdrop", "processes", "options", "refused"),
    [
        (0.1, 2, {}, True),
        (0.1, 1, {}, False),
        (0.0, 2, {}, False),
        (0.1, 2, {"find_unused_parameters": True}, False),
        (0.1, 2, {"find_unused_parameters": False}, True),
    ],
)
def test_ranks_that_would_wait_for_each_others_dropped_layers_are_refused(
    layerdrop: float, processes: int, options: dict[str, bool], refused: bool
) -> None:
    module = build("wav2vec2", config={**TINY_WAV2VEC2["config"], "layerdrop": layerdrop})
    trainer: Any = type("Trainer", (), {"world_size": processes, "strategy": DDPStrategy(**options)})
    message = "layerdrop: 0.1, must be 0 in 2 processes, .*--trainer.strategy ddp_find_unused_parameters_true"
    with pytest.raises(UserError, match=message) if refused else nullcontext():
        RanksAgree().setup(trainer, module, "fit")  # type: ignore[arg-type]
