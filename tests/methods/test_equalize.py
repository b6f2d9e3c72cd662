"""Equalization of whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.equalize import plant_outliers_
from datamodules.base import SpeechDataModule
from qat.evaluation.measure import coverage_of
from qat.layers.equalize import ScalePair
from qat.layers.state import state_hash
from qat.methods.calibrate import calibrate_
from qat.methods.equalize import channel_magnitudes, equalize_and_check, summary
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from qat.rule import Equalize
from tests.conftest import build, noise
from tests.models.attention_models import attention_model

SECOND = (noise(1, 1.0, seed=3), torch.tensor([16_000]))


def model_of(kind: str, equalize: Equalize = "smooth", **recipe: object) -> CTCModule:
    values = {"preset": "x", "equalize": equalize, "calibration_utterances": 4, **recipe}
    model = build(kind, Recipe.from_dict(values)).eval()
    model.fold_batch_norm()
    return model


@pytest.mark.parametrize("equalize", ["cross_layer", "smooth"])
@torch.no_grad()
def test_planted_outliers_are_flat_again_and_the_float_output_has_the_same_bits(
    kind: str, equalize: Equalize, tiny_data: SpeechDataModule
) -> None:
    model = model_of(kind, equalize)
    plant_outliers_(model, channels=1, factor=1000)
    before = model(*SECOND)[0]
    line = equalize_and_check(model, tiny_data)
    assert torch.equal(model(*SECOND)[0], before)
    scaled = [item for item in model.equalized if "channels" in item]
    # a channel that is small by itself, or hardly read, may have been the one
    grown = [item for item in scaled if item["before"] > 100]
    assert len(grown) > len(scaled) / 2
    assert all(item["after"] < item["before"] / 30 for item in grown)
    assert (
        f"equalized {len(scaled)} of {len(model.equalized)} pairs" in line
        and "unchanged within 0e+00" in line
    )


@torch.no_grad()
def test_eight_bits_lose_what_outliers_take_and_equalization_gives_it_back(
    kind: str, tiny_data: SpeechDataModule
) -> None:
    errors = {}
    for name in ("plain", "planted", "equalized"):
        model = model_of(kind, "smooth", reduce_range=False, activation_observer="max")
        if name != "plain":
            plant_outliers_(model, channels=1, factor=1000)
        exact = model(*SECOND)[0]
        if name == "equalized":
            equalize_and_check(model, tiny_data)
        calibrate_(model, tiny_data)
        errors[name] = float((model(*SECOND)[0] - exact).square().mean())
    assert errors["planted"] > 4 * errors["plain"]
    assert errors["equalized"] < 2 * errors["plain"]


def test_an_attention_model_keeps_its_frames_and_tokens(tmp_path: Path, tiny_data: SpeechDataModule) -> None:
    recipe = Recipe(preset="x", equalize="smooth", calibration_utterances=4)
    model = attention_model(tmp_path, recipe)
    assert "equalized 6 of 7 pairs" in equalize_and_check(model, tiny_data)


def test_channels_are_scaled_once_only(tiny_data: SpeechDataModule) -> None:
    model = model_of("wav2vec2")
    equalize_and_check(model, tiny_data)
    before = state_hash(model)
    with pytest.raises(RuntimeError, match="equalized already"):
        equalize_and_check(model, tiny_data)
    assert state_hash(model) == before


def test_a_pair_that_the_model_names_wrongly_is_found(
    tiny_data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The residual stream does not pass a factor: the check of the float output fails, and says what to do."""
    model = model_of("wav2vec2")
    place = "hf.wav2vec2.encoder.layers.0"
    wrong = ScalePair(f"{place}.attention.out_proj", (f"{place}.feed_forward.intermediate_dense",))
    monkeypatch.setattr(model, "scale_pairs", lambda: iter([wrong]))
    plant_outliers_(model, channels=1)
    with pytest.raises(
        RuntimeError, match=r"\(smooth, alpha 0.5\) changed the float output by .*--qat.equalize none"
    ):
        equalize_and_check(model, tiny_data)


def test_skipped_pairs_and_their_reasons_are_told_and_in_the_coverage(tiny_data: SpeechDataModule) -> None:
    model = model_of("wav2vec2", rules=[{"match": "head", "quantize": False}])
    line = equalize_and_check(model, tiny_data)
    assert (
        line.startswith(summary(model))
        and "`hf.wav2vec2.encoder.layer_norm -> hf.lm_head`: no quantized layer" in line
    )
    assert "conv_layers.1.conv` and 7 more: GELU stands between them" in line
    calibrate_(model, tiny_data)
    found = coverage_of(model, {})
    assert found["pairs_equalized"] == 7 and len(found["pairs_not_equalized"]) == 9
    assert ["hf.wav2vec2.encoder.layer_norm -> hf.lm_head", "no quantized layer reads it"] in found[
        "pairs_not_equalized"
    ]
    assert "pairs_equalized" not in coverage_of(model_of("wav2vec2"), {})


def test_magnitudes_are_those_of_channels() -> None:
    x = torch.zeros(2, 3, 5, 4)
    x[1, 2, 3, 1] = -7.0
    assert channel_magnitudes(torch.nn.Conv2d(3, 1, 1), x).tolist() == [0, 0, 7]
    assert channel_magnitudes(torch.nn.Linear(4, 1), x).tolist() == [0, 7, 0, 0]
    packed = torch.nn.utils.rnn.pack_sequence([x[1, 2]])
    assert channel_magnitudes(torch.nn.LSTM(4, 1), packed).tolist() == [0, 7, 0, 0]


def test_a_rule_has_only_the_channels_scaled_that_its_layers_read(tiny_data: SpeechDataModule) -> None:
    place = "hf.wav2vec2.encoder.layers.0"
    rules = [
        {"match": f"{place}.attention.out_proj", "equalize": "cross_layer"},
        {"match": f"{place}.feed_forward.intermediate_dense", "equalize": "smooth"},
    ]
    model = model_of("wav2vec2", "none", rules=rules)
    plant_outliers_(model, channels=1, factor=1000)
    before = model(*SECOND)[0]
    line = equalize_and_check(model, tiny_data)
    assert torch.equal(model(*SECOND)[0], before)
    scaled = {item["pair"]: item["before"] / item["after"] for item in model.equalized if "channels" in item}
    assert set(scaled) == {
        f"{place}.attention.v_proj -> {place}.attention.out_proj",
        f"{place}.final_layer_norm -> {place}.feed_forward.intermediate_dense",
    }
    assert "(cross_layer and smooth, alpha 0.5)" in line and "the recipe's rules leave it" in line
    assert max(scaled.values()) > 30
