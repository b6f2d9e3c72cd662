"""Whole models: parity, free axes, nodes, metadata, refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from qat.runtime.export import export_onnx
from qat.runtime.graph import count_nodes, optimised_graph
from qat.runtime.session import Session
from qat.system.errors import UserError
from tests.conftest import build, noise
from tests.runtime.conftest import Exported, output_folder


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


def test_padded_batch_reads_as_its_utterances(exported: Exported) -> None:
    session, signal = Session(exported.integer.path), noise(2, 1.5, seed=7).numpy()
    signal[1, 16_000:] = 0
    logits, frames = session.run(signal, np.array([24_000, 16_000]))
    alone = session.logits(signal[1, :16_000])
    assert frames[1] == len(alone)
    edge = 4 if "crdnn" in str(exported.integer.path) else 0  # SpeechBrain's convolutions mirror the true end
    kept = len(alone) - edge
    # The LSTM kernel takes one range over the whole batch, so levels differ slightly from those of one utterance.
    assert np.abs(logits[1, :kept] - alone[:kept]).max() < 0.03


def test_every_quantized_layer_runs_on_integers(exported: Exported) -> None:
    counts = count_nodes(optimised_graph(exported.integer.path)).to_dict()
    layers = dict.fromkeys(exported.module.swap_report.swapped, 1)
    layers = {
        name: 2 if "rnn" in name else count for name, count in layers.items()
    }  # one node a stacked layer
    assert counts["integer"] == sum(layers.values())
    assert counts["float_compute"] == 0
    for name in layers:
        assert any(node.startswith(name) for node in counts["names"]["integer"])


def test_attention_products_are_listed_apart(wav2vec2: Exported) -> None:
    counts = count_nodes(optimised_graph(wav2vec2.integer.path)).to_dict()
    assert counts["float_matmul_without_weights"] >= 4  # two layers of two products


def test_float_twin_has_no_integer_node(crdnn: Exported) -> None:
    assert crdnn.float is not None
    counts = count_nodes(optimised_graph(crdnn.float.path)).to_dict()
    assert counts["integer"] == 0 and counts["float_compute"] == 9
    assert counts["frontend"] == 2


def test_integer_file_is_smaller(crdnn: Exported) -> None:
    weights = {}
    for info in (crdnn.integer, crdnn.float):
        assert info is not None
        tensors = [item for item in onnx.load(str(info.path)).graph.initializer if "fbank" not in item.name]
        weights[info.precision] = sum(onnx.numpy_helper.to_array(item).nbytes for item in tensors)
    assert weights["integer"] < 0.6 * weights["float"]


def test_metadata_tell_how_to_read_the_file(exported: Exported) -> None:
    session = Session(exported.integer.path)
    assert session.vocabulary == exported.module.vocabulary
    assert session.sample_rate == 16_000
    assert session.metadata["precision"] == "integer"
    assert json.loads(session.metadata["recipe"]) == exported.module.recipe.to_dict()
    labels = [session.vocabulary.index(item) for item in ("h", "h", "<blank>", "i", " ", " ", "i")]
    best = np.eye(len(session.vocabulary))[labels]
    assert session.decode(best) == exported.module.labels_to_text(torch.tensor(labels)) == "hi i"


def test_transcript_equals_the_modules_decoding(exported: Exported) -> None:
    session, signal = Session(exported.integer.path), noise(1, 1.0, seed=8)
    logits = torch.from_numpy(session.logits(signal[0].numpy()))[None]
    expected = exported.module.decode(logits, torch.tensor([logits.shape[1]]))[0]
    assert session.transcribe(signal[0].numpy()) == expected


@pytest.mark.parametrize("samples", [1, 300, 1_599])
def test_very_short_signals_are_read(exported: Exported, samples: int) -> None:
    logits = Session(exported.integer.path).logits(np.full(samples, 0.1))
    assert len(logits) >= 1 and np.isfinite(logits).all()


def test_one_file_without_paths_of_this_machine(exported: Exported) -> None:
    assert not [name for name in output_folder(exported.integer.path) if not name.endswith(".onnx")]
    content = exported.integer.path.read_bytes()
    assert str(Path(__file__).resolve().parents[2]).encode() not in content
    assert b"site-packages" not in content


def test_export_leaves_the_module_alone(crdnn: Exported) -> None:
    kinds = {type(child).__name__ for child in crdnn.module.modules()}
    assert "QuantLSTM" in kinds and "ExportedLSTM" not in kinds and "Fbank" in kinds


def test_uncalibrated_module_is_refused(tmp_path: Path) -> None:
    from qat.recipe import Recipe

    model = build("crdnn", Recipe(preset="test"))
    with pytest.raises(UserError, match="not calibrated"):
        export_onnx(model, tmp_path / "x.onnx", "integer")
    with pytest.raises(UserError, match="no quantized layer"):
        export_onnx(build("crdnn"), tmp_path / "x.onnx", "integer")
    with pytest.raises(UserError, match="precision"):
        export_onnx(model, tmp_path / "x.onnx", "int8")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_quantizers_switched_off_are_refused(crdnn: Exported, tmp_path: Path) -> None:
    twin = copy.deepcopy(crdnn.module)
    twin.quantize(False)
    with pytest.raises(UserError, match="switched off"):
        export_onnx(twin, tmp_path / "x.onnx", "integer")
