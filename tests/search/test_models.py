"""The models that are compared have the float model's weights, and are those that train.py makes of the recipe."""

from __future__ import annotations

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.layers.swap import quantizers
from qat.methods.calibrate import calibrate_
from qat.search.candidates import Candidate, all_candidates, units_of
from qat.search.models import (
    calibrate_from_,
    draw,
    enable_alone_,
    observed,
    recipe_of,
    uniform,
    with_recipe,
)
from qat.search.options import SearchOptions
from qat.system.errors import UserError
from tests.conftest import build, noise

OPTIONS = SearchOptions()


def test_off_it_is_the_float_model(kind: str) -> None:
    module = build(kind).eval()
    units = units_of(module, all_candidates([8]))
    twin = with_recipe(module, recipe_of(units, uniform(units, Candidate(8, "static")), OPTIONS, 4))
    lengths = torch.tensor([8_000])
    with torch.no_grad():
        same = twin(noise(1, 0.5), lengths)[0] - module(noise(1, 0.5), lengths)[0]
    assert float(same.abs().max()) < 1e-5  # BatchNorm is folded


def test_shared_histograms_give_the_ranges_of_a_calibration(tiny_data: SpeechDataModule) -> None:
    module = build("crdnn").eval()
    units = units_of(module, all_candidates([8, 4]))
    static, mixed = (uniform(units, Candidate(8, "static", percentile)) for percentile in (99.99, 99.6))
    mixed |= {"head": Candidate(8, "frame"), "crdnn.RNN.rnn": Candidate(4, "static", 99.6)}
    histograms = observed(with_recipe(module, recipe_of(units, static, OPTIONS, 9)), tiny_data)
    shared, own = (with_recipe(module, recipe_of(units, mixed, OPTIONS, 9)) for _ in range(2))
    calibrate_from_(shared, histograms)
    calibrate_(own, tiny_data)
    for key, value in own.state_dict().items():
        assert torch.equal(value, shared.state_dict()[key]), key


def test_one_unit_alone_is_switched_on(tiny_data: SpeechDataModule) -> None:
    module = build("crdnn").eval()
    units = units_of(module, all_candidates([8]))
    quantized = with_recipe(module, recipe_of(units, uniform(units, Candidate(8, "static")), OPTIONS, 4))
    calibrate_(quantized, tiny_data)
    enable_alone_(quantized, ["head"])
    assert {name.partition(".")[0] for name, item in quantizers(quantized) if item.is_enabled} == {"head"}


def test_nothing_is_measured_on_what_calibrates(tiny_data: SpeechDataModule) -> None:
    calibrating, held_out = draw(tiny_data, SearchOptions(calibration_utterances=100, utterances=100))
    assert (len(calibrating), len(held_out)) == (9, 3)
    assert not {item.id for item in calibrating} & {item.id for item in held_out}
    assert calibrating == tiny_data.calibration_utterances(9, 0)


def test_a_single_utterance_is_refused(tiny_data: SpeechDataModule) -> None:
    tiny_data.max_train_utterances = 1
    with pytest.raises(UserError, match="train has 1 utterance; must be at least 2"):
        draw(tiny_data, OPTIONS)
