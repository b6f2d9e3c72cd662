"""Whole models: parity, free axes, nodes, metadata, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.equalize import plant_outliers_
from datamodules.base import SpeechDataModule
from qat.methods.calibrate import calibrate_
from qat.methods.equalize import equalize_and_check
from qat.recipe import Recipe
from qat.runtime.export import export_onnx
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.conftest import build, noise
from tests.runtime.conftest import SAFE, Exported


def test_integer_file_agrees_with_the_module(exported: Exported) -> None:
    session = Session(exported.integer.path)
    for seconds in (0.6, 1.7):
        signal = noise(1, seconds, seed=5)
        with torch.no_grad():
            logits, frames = exported.module(signal, torch.tensor([signal.shape[1]]))
        actual = session.logits(signal[0].numpy())
        assert actual.shape == (int(frames), logits.shape[-1])
        # A few 8-bit roundings differ by a level on the way; the largest logit is about 0.4.
        assert np.abs(actual - logits[0].numpy()).max() < 0.02


def test_the_file_of_an_equalized_model_agrees_with_the_module(
    kind: str, tiny_data: SpeechDataModule, tmp_path: Path
) -> None:
    """Planted channels a hundred times larger, scaled back before calibration."""
    model = build(kind, Recipe(preset="x", equalize="smooth", calibration_utterances=4, **SAFE)).eval()
    plant_outliers_(model, channels=1)
    model.fold_batch_norm()
    equalize_and_check(model, tiny_data)
    calibrate_(model, tiny_data)
    session, signal = (
        Session(export_onnx(model, tmp_path / "model.onnx", "integer").path),
        noise(1, 1.2, seed=5),
    )
    with torch.no_grad():
        logits, _ = model(signal, torch.tensor([signal.shape[1]]))
    # as of any model: a few roundings differ by a level on the way
    assert np.abs(session.logits(signal[0].numpy()) - logits[0].numpy()).max() < 0.02


def test_float_file_equals_the_module_switched_off(crdnn: Exported) -> None:
    assert crdnn.float is not None
    twin = copy.deepcopy(crdnn.module)
    twin.quantize(False)
    signal, lengths = noise(3, 1.5, seed=6), torch.tensor([24_000, 20_000, 9_000])
    with torch.no_grad():
        logits, frames = twin(signal, lengths)
    actual, counts = Session(crdnn.float.path).run(signal.numpy(), lengths.numpy())
    assert counts.tolist() == frames.tolist()
    for row, count in enumerate(counts):  # float32 in another order of sums
        np.testing.assert_allclose(actual[row, :count], logits[row, :count].numpy(), atol=1e-5)


def padded(lengths: Any, seed: int = 7) -> Any:
    """Noise of these lengths, zero-padded."""
    signal = noise(len(lengths), 1.5, seed=seed).numpy()
    return np.where(np.arange(signal.shape[1]) < lengths[:, None], signal, np.float32(0))


def test_a_padded_batch_gives_what_its_utterances_give(exported: Exported) -> None:
    session, lengths = Session(exported.integer.path), np.array([24_000, 16_000, 1_599, 320])
    signal = padded(lengths)
    logits, frames = session.run(signal, lengths)
    for row, length in enumerate(lengths):
        alone = session.logits(signal[row, :length])
        assert frames[row] == len(alone)
        # The LSTM kernel takes one range over the whole batch, so levels differ slightly from those of one utterance.
        assert np.abs(logits[row, : len(alone)] - alone).max() < 0.03


def test_a_padded_batch_gives_what_its_utterances_give_in_float(crdnn: Exported) -> None:
    assert crdnn.float is not None
    session, lengths = Session(crdnn.float.path), np.array([9_059, 24_000, 1_599, 17_003, 700, 160, 1])
    signal = padded(lengths)
    logits, frames = session.run(signal, lengths)
    for row, length in enumerate(lengths):
        alone = session.logits(signal[row, :length])
        assert frames[row] == len(alone)
        assert np.abs(logits[row, : len(alone)] - alone).max() < 1e-4


@pytest.mark.parametrize("samples", [1, 159, 160, 479, 800, 1_599, 1_600])
def test_very_short_signals_have_the_modules_logits(exported: Exported, samples: int) -> None:
    signal = noise(1, 0.1, seed=3)[:, :samples]
    with torch.no_grad():
        logits, frames = exported.module(signal, torch.tensor([samples]))
    actual = Session(exported.integer.path).logits(signal[0].numpy())
    assert actual.shape == (int(frames), logits.shape[-1])
    assert np.abs(actual - logits[0, : int(frames)].numpy()).max() < 0.02  # as above


def test_transcript_equals_the_modules_decoding(exported: Exported) -> None:
    session, signal = Session(exported.integer.path), noise(1, 1.0, seed=8)
    logits = torch.from_numpy(session.logits(signal[0].numpy()))[None]
    expected = exported.module.decode(logits, torch.tensor([logits.shape[1]]))[0]
    assert session.transcribe(signal[0].numpy()) == expected


@pytest.mark.parametrize("samples", [1, 300, 1_599])
def test_very_short_signals_have_logits(exported: Exported, samples: int) -> None:
    logits = Session(exported.integer.path).logits(np.full(samples, 0.1))
    assert len(logits) >= 1 and np.isfinite(logits).all()


def test_export_leaves_the_module_alone(crdnn: Exported) -> None:
    kinds = {type(child).__name__ for child in crdnn.module.modules()}
    assert "QuantLSTM" in kinds and "ExportedLSTM" not in kinds and "Fbank" in kinds


def test_uncalibrated_module_is_refused(tmp_path: Path) -> None:
    model = build("crdnn", Recipe(preset="test"))
    with pytest.raises(UserError, match="not calibrated"):
        export_onnx(model, tmp_path / "x.onnx", "integer")
    with pytest.raises(UserError, match="no quantized layer"):
        export_onnx(build("crdnn"), tmp_path / "x.onnx", "integer")
    unknown: Any = "int8"
    with pytest.raises(UserError, match="precision: 'int8', must be integer or float"):
        export_onnx(model, tmp_path / "x.onnx", unknown)
    assert not list(tmp_path.iterdir())


def test_quantizers_switched_off_are_refused(crdnn: Exported, tmp_path: Path) -> None:
    twin = copy.deepcopy(crdnn.module)
    twin.quantize(False)
    with pytest.raises(UserError, match="switched off"):
        export_onnx(twin, tmp_path / "x.onnx", "integer")
