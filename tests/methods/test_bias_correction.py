"""Bias correction alone: reported, helpful or undone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from datamodules.base import SpeechDataModule
from qat.methods.float_reference import FloatInputs, divergence, sites
from qat.models.ctc import CTCModule
from qat.models.loading import load_module
from tests.callbacks.test_ada_round import adaround, fit


def alone(tiny: Path, folder: Path) -> tuple[CTCModule, CTCModule, set[str]]:
    """Bias correction of a model rounded to nearest; the model before it; names of what changed."""
    model = fit(adaround(tiny, folder, "--qat.ada_round", "false", "--qat.weight_bits", "3"))
    twin = load_module(folder / "ptq.ckpt")
    before = twin.state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    return model.eval(), twin.eval(), changed


def test_bias_correction_alone_changes_the_biases_it_reports(kind: str, tiny: Path, tmp_path: Path) -> None:
    model, _, changed = alone(tiny, tmp_path / "run")
    assert changed and {key.rpartition(".")[2].partition("_l")[0] for key in changed} <= {"bias", "bias_ih"}
    assert all(item["steps"] == 0 for item in model.reconstruction)
    corrected = {item["layer"] for item in model.reconstruction if item["bias_corrected"]}
    of_lstm = {
        f"{key.partition('.bias_ih_l')[0]}.l{key.rpartition('_l')[2][0]}" for key in changed if "_ih_" in key
    }
    assert corrected == of_lstm | {key.removesuffix(".bias") for key in changed if "_ih_" not in key}


def test_bias_correction_alone_brings_the_posteriors_nearer(
    kind: str, tiny: Path, tmp_path: Path, tiny_data: SpeechDataModule
) -> None:
    model, twin, _ = alone(tiny, tmp_path / "run")
    reference = copy.deepcopy(twin)
    reference.quantize(False)
    batches = list(tiny_data.loader(tiny_data.utterances("train")))[:3]
    with torch.no_grad():
        floats = FloatInputs(reference, sites(twin, batches[0]), batches, 0)
        assert divergence(model, floats) < divergence(twin, floats)


def test_a_bias_correction_that_does_not_help_is_undone(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("ada_round", "bias_correction"):
        monkeypatch.setattr(f"qat.methods.{user}.divergence", lambda *_: 1.0)
    model, _, changed = alone(tiny, tmp_path / "run")
    assert not changed
    assert all(item["after"] == item["before"] for item in model.reconstruction)
    assert not any(item["bias_corrected"] for item in model.reconstruction)
