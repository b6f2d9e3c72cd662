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


def test_a_search_is_logged_with_the_report(
    tiny_data: SpeechDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    monkeypatch.setattr("qat.callbacks.final_evaluation.log_report", lambda *given: logged.append(given))
    logger: Any = SimpleNamespace(experiment=None)
    (tmp_path / "wer.png").write_text("")
    (tmp_path / "worst.json").write_text("{}")
    callback = FinalEvaluation(tmp_path, EvaluationOptions())
    callback.log_to_wandb(logger, [], tiny_data)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "pareto.png").write_text("")
    callback.log_to_wandb(logger, [], tiny_data)
    pictures, files = ([[path.name for path in given[place]] for given in logged] for place in (4, 6))
    assert pictures == [["wer.png"], ["wer.png", "pareto.png"]]
    assert files == [["report.json", "utterances.json", "config.yaml"], [*files[0], "search"]]
