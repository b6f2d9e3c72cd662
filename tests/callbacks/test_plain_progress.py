"""Progress in plain lines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qat.callbacks.plain_progress import PlainProgress


def trainer(**changes: Any) -> Any:
    optimizer = SimpleNamespace(param_groups=[{"lr": 1e-3}])
    metrics = {"train/loss": torch.tensor(0.5), "val/loss": torch.tensor(0.25), "val/wer": torch.tensor(12.5)}
    facts = {
        "sanity_checking": False,
        "is_global_zero": True,
        "callback_metrics": metrics,
        "current_epoch": 1,
    }
    facts |= {"max_epochs": 3, "global_step": 40, "optimizers": [optimizer]}
    return SimpleNamespace(**{**facts, **changes})


def test_a_validation_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress().on_validation_end(trainer(), torch.nn.Identity())  # type: ignore[arg-type]
    expected = (
        "epoch 2/3, step 40: train loss 0.5000, dev loss 0.2500, dev WER 12.50 %, lr 1.0e-03, 0.0 min\n"
    )
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("changes", [{"sanity_checking": True}, {"is_global_zero": False}])
def test_sanity_checks_and_other_ranks_print_nothing(
    changes: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    PlainProgress().on_validation_end(trainer(**changes), torch.nn.Identity())  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
