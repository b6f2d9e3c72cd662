"""Sites, and what the float model multiplies there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.methods.calibrate import calibrate_
from qat.methods.float_reference import FloatInputs, collect, sites
from qat.models.ctc import CTCModule
from qat.recipe import Recipe
from tests.conftest import build


def pair(kind: str, data: SpeechDataModule, **fields: Any) -> tuple[CTCModule, CTCModule]:
    """A calibrated model and the float model it came from."""
    model = build(kind, Recipe(preset="x", ada_round=True, calibration_utterances=3, **fields))
    calibrate_(model, data)
    reference = copy.deepcopy(model.eval())
    reference.quantize(False)
    return model, reference


def test_the_layers_of_an_attention_block_share_one_site(tiny_data: SpeechDataModule) -> None:
    model = build("wav2vec2", Recipe(preset="x", ada_round=True)).eval()
    batch = next(iter(tiny_data.loader(tiny_data.utterances("train")[:1])))
    found = [[item.name.rpartition(".")[2] for item in site] for site in sites(model, batch)]
    assert found.count(["q_proj", "k_proj", "v_proj"]) == 2
    assert found[0] == ["conv"] and found[-1] == ["lm_head"]


def test_stacked_lstm_layers_follow_each_other(tiny_data: SpeechDataModule) -> None:
    model = build("crdnn", Recipe(preset="x", ada_round=True)).eval()
    batch = next(iter(tiny_data.loader(tiny_data.utterances("train")[:1])))
    found = [[item.name for item in site] for site in sites(model, batch)]
    assert [name for site in found for name in site if ".rnn." in name] == [
        "crdnn.RNN.rnn.l0",
        "crdnn.RNN.rnn.l1",
    ]
    assert all(len(site) == 1 for site in found)


def test_inputs_come_from_the_quantized_prefix_and_targets_from_the_float_model(
    tiny_data: SpeechDataModule,
) -> None:
    """The first layer sees the same on both sides (weights only), a later one does not."""
    model, reference = pair("wav2vec2", tiny_data, weight_bits=2, activation_bits=None)
    batches = list(tiny_data.loader(tiny_data.utterances("train")[:2]))
    found = sites(model, batches[0])
    with torch.no_grad():
        floats = FloatInputs(reference, found, batches, 0)
        first = collect(model, floats, found[0])[found[0][0].name]
        later = collect(model, floats, found[3])[found[3][0].name]
    assert float(first.split()[2].abs().max()) == 0.0
    assert float(later.split()[2].abs().max()) > 0.0


def test_inputs_of_the_float_model_are_the_same_kept_or_read_anew(
    kind: str, tiny_data: SpeechDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reference = pair(kind, tiny_data, weight_bits=3)
    batches = list(tiny_data.loader(tiny_data.utterances("train")[:2]))
    found = sites(model, batches[0])
    with torch.no_grad():
        kept = FloatInputs(reference, found, batches, 0)
        monkeypatch.setattr("qat.methods.float_reference.CACHE_BYTES", 0)
        anew = FloatInputs(reference, found, batches, 0)
        assert kept.kept and not anew.kept
        for maps in found:
            one, two = collect(model, kept, maps), collect(model, anew, maps)
            for name, moments in one.items():
                assert moments.sums is not None and two[name].sums is not None
                assert torch.equal(moments.sums, two[name].sums)
            for item in maps:  # must not reach the float side
                item.correct_bias_(one[item.name])
