"""Calibration: repeatable, on training speech only."""

from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F
import yaml

from datamodules.base import SpeechDataModule
from qat.layers.state import state_hash
from qat.methods.calibrate import calibrate_, is_quantized
from qat.recipe import Recipe
from qat.system.errors import UserError
from tests.conftest import ROOT, build


def test_calibration_is_repeatable_and_sees_training_speech_only(
    kind: str, tiny_data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = SpeechDataModule.loader

    def spy(self: SpeechDataModule, utterances: Any, **arguments: Any) -> Any:
        seen.extend(item.id for item in utterances)
        return original(self, utterances, **arguments)

    monkeypatch.setattr(SpeechDataModule, "loader", spy)
    hashes = []
    for _ in range(2):
        model = build(
            kind, Recipe(preset="ptq_entropy", activation_observer="entropy", calibration_utterances=5)
        )
        calibrate_(model, tiny_data)
        hashes.append(state_hash(model))
    assert hashes[0] == hashes[1]
    assert len(set(seen)) == 5 and all(name.startswith("train-") for name in seen)


def test_where_no_activation_has_a_range_to_choose_the_speech_does_not_matter(
    kind: str, tiny_data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load((ROOT / "configs" / "qat" / "dynamic.yaml").read_text())
    loaded: list[int] = []
    original = SpeechDataModule.loader

    def spy(self: SpeechDataModule, utterances: Any, **arguments: Any) -> Any:
        loaded.append(len(utterances))
        return original(self, utterances, **arguments)

    monkeypatch.setattr(SpeechDataModule, "loader", spy)
    hashes = []
    for seed in range(2):
        model = build(kind, Recipe.from_dict({**values, "seed": seed, "calibration_utterances": 5}))
        line = calibrate_(model, tiny_data)
        assert line == "chose the ranges of all weights (mse); activations take theirs when they run"
        assert is_quantized(model)
        hashes.append(state_hash(model))
    assert hashes[0] == hashes[1] and loaded == [1, 1]


@pytest.mark.parametrize("observer", ["max", "mse", "percentile", "entropy"])
def test_observers_choose_different_ranges(observer: str, tiny_data: SpeechDataModule) -> None:
    model = build("crdnn", Recipe(preset="x", activation_observer=observer, calibration_utterances=6))  # type: ignore[arg-type]
    calibrate_(model, tiny_data)
    reference = build("crdnn", Recipe(preset="x", activation_observer="max", calibration_utterances=6))
    calibrate_(reference, tiny_data)
    assert (state_hash(model) == state_hash(reference)) == (observer == "max")


def test_a_quantized_layer_that_is_never_called_stops_the_calibration(tiny_data: SpeechDataModule) -> None:
    """Weights alone are quantized: no activation range would miss its values."""
    model: Any = build("crdnn", Recipe(preset="x", activation_bits=None, calibration_utterances=2))
    wrapper = model.crdnn.DNN.block_1.linear
    wrapper.forward = lambda x: F.linear(x, wrapper.w.weight)
    with pytest.raises(UserError, match=r"^crdnn\.DNN\.block_1\.linear\.w: never called in calibration"):
        calibrate_(model, tiny_data)
