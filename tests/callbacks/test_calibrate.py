"""Fold, calibrate, fine-tune: what the callbacks do to a model in a fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.layers.state import state_hash
from qat.layers.swap import quantizers
from qat.methods.calibrate import is_quantized
from qat.models.loading import load_module
from qat.recipe import Recipe
from tests.callbacks.fits import fit
from tests.conftest import build, noise


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


def test_channels_are_equalized_once_in_a_run_and_a_checkpoint_says_so(
    kind: str, tiny_data: SpeechDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that resumes does not scale its channels a second time."""
    lines: list[str] = []
    monkeypatch.setattr("qat.callbacks.calibrate.rank_zero_info", lines.append)
    recipe = Recipe(preset="x", equalize="smooth", weight_observer="max", calibration_utterances=4)
    model = build(kind, recipe)
    fit(model, tiny_data, tmp_path, max_steps=-1, max_epochs=0)
    assert sum("equalized" in line for line in lines) == 1
    twin = load_module(tmp_path / "ptq.ckpt")
    assert twin.equalized == model.equalized and twin.equalized
    signal, lengths = noise(1, 1.0), torch.tensor([16_000])
    with torch.no_grad():
        assert torch.equal(twin(signal, lengths)[0], model.eval()(signal, lengths)[0])
    resumed = build(kind, recipe)
    fit(resumed, tiny_data, max_steps=-1, max_epochs=0, ckpt_path=str(tmp_path / "last.ckpt"))
    assert sum("equalized" in line for line in lines) == 1
    assert resumed.equalized == model.equalized and state_hash(resumed) == state_hash(model)


def test_without_equalization_a_run_is_what_it_was(
    kind: str, tiny_data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qat.callbacks.calibrate.equalize_and_check", lambda *_: pytest.fail("equalized"))
    model = build(kind, Recipe(preset="ptq_max", equalize="none", calibration_utterances=4))
    fit(model, tiny_data, max_steps=-1, max_epochs=0)
    assert is_quantized(model) and model.equalized == []
