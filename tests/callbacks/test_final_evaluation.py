"""What the end of a run keeps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.callbacks.final_evaluation import FinalEvaluation
from qat.evaluation.options import EvaluationOptions
from qat.methods.calibrate import calibrate_
from qat.models.loading import load_module
from qat.recipe import Recipe
from tests.conftest import build


@pytest.mark.parametrize("asked", [False, True])
def test_the_kept_model_has_re_estimated_statistics_where_the_recipe_asks(
    asked: bool, tiny_data: SpeechDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qat.callbacks.final_evaluation.report_checkpoint", lambda *arguments: [])
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    recipe = Recipe(preset="x", calibration_utterances=3, fold_batch_norm=False, re_estimate_batch_norm=asked)
    model = build("crdnn", recipe)
    calibrate_(model, tiny_data)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    strategy = SimpleNamespace(barrier=lambda: None)
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=tiny_data, loggers=[], strategy=strategy)
    FinalEvaluation(tmp_path, EvaluationOptions()).on_fit_end(trainer, model)
    kept = load_module(tmp_path / "model.ckpt").state_dict()
    assert before and all(torch.equal(kept[key], before[key]) != asked for key in before)
