"""Fold, calibrate, fine-tune: what the callbacks do to a model in a fit."""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.base import SpeechDataModule
from qat.layers.state import state_hash
from qat.layers.swap import quantizers
from qat.methods.calibrate import is_quantized
from qat.models.loading import load_module
from qat.recipe import Recipe
from tests.callbacks.fits import fit
from tests.conftest import build


def test_a_fit_folds_calibrates_keeps_the_twin_and_trains_quantized(
    kind: str, tiny_data: SpeechDataModule, tmp_path: Path
) -> None:
    model = build(
        kind,
        Recipe(preset="stochastic", rounding="stochastic", weight_observer="max", calibration_utterances=4),
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, tiny_data, tmp_path)
    assert is_quantized(model) and all(quantizer.is_enabled for _, quantizer in quantizers(model))
    assert len(model.folded) == (2 if kind == "crdnn" else 0)
    twin = load_module(tmp_path / "ptq.ckpt")
    assert is_quantized(twin) and state_hash(twin) != state_hash(model)
    moved = [
        key
        for key, value in model.state_dict().items()
        if key in before and not torch.equal(before[key], value)
    ]
    assert any(key.endswith("weight") for key in moved)


def test_post_training_quantization_does_not_touch_the_weights(
    kind: str, tiny_data: SpeechDataModule
) -> None:
    model = build(kind, Recipe(preset="ptq_max", calibration_utterances=4, fold_batch_norm=False))
    weights = {name: value.clone() for name, value in model.named_parameters()}
    fit(model, tiny_data, max_steps=-1, max_epochs=0)
    assert is_quantized(model)
    assert all(torch.equal(weights[name], value) for name, value in model.named_parameters())
