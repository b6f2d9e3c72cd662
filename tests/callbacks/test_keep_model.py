"""The model that a finished run keeps, whether it is measured or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.callbacks.keep_model import KeepModel
from qat.methods.calibrate import calibrate_
from qat.models.loading import load_module
from qat.recipe import Recipe
from tests.conftest import build


@pytest.mark.parametrize("asked", [False, True])
def test_the_kept_model_has_re_estimated_statistics_where_the_recipe_asks(
    asked: bool, tiny_data: SpeechDataModule, tmp_path: Path
) -> None:
    recipe = Recipe(preset="x", calibration_utterances=3, fold_batch_norm=False, re_estimate_batch_norm=asked)
    model = build("crdnn", recipe)
    calibrate_(model, tiny_data)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    strategy = SimpleNamespace(barrier=lambda: None)
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=tiny_data, loggers=[], strategy=strategy)
    KeepModel(tmp_path).on_fit_end(trainer, model)
    kept = load_module(tmp_path / "model.ckpt").state_dict()
    assert before and all(torch.equal(kept[key], before[key]) != asked for key in before)
