"""The report at the end of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.base import SpeechDataModule
from qat.callbacks.final_evaluation import FinalEvaluation
from qat.evaluation.options import EvaluationOptions
from tests.conftest import build


def test_what_is_measured_is_the_model_that_the_run_has_kept(
    tiny_data: SpeechDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def report_checkpoint(*arguments: Any) -> list[Any]:
        asked.append(arguments)
        return []

    monkeypatch.setattr("qat.callbacks.final_evaluation.report_checkpoint", report_checkpoint)
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    trainer: Any = SimpleNamespace(datamodule=tiny_data, loggers=[])
    options = EvaluationOptions(repeats=7)
    FinalEvaluation(tmp_path, options).on_fit_end(trainer, build("crdnn"))
    assert [(*each[:3], each[4]) for each in asked] == [
        (tmp_path / "model.ckpt", tmp_path, tiny_data, options)
    ]
