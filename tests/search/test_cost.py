"""Times and bytes go to the layers that they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qat.runtime.attention_export import export
from qat.runtime.export import export_onnx
from qat.search.candidates import all_candidates, units_of
from qat.search.cost import REST, ProfiledFolder, constant_bytes, node_times, profile, split_runs
from tests.conftest import build, noise
from tests.models.attention_models import attention_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cost") / "float.onnx"
    export_onnx(build("wav2vec2"), path, "float")
    return path


def layers() -> list[str]:
    return [layer for unit in units_of(build("wav2vec2"), all_candidates([8])) for layer in unit.layers]


def test_every_layer_of_a_file_has_time_and_bytes(exported: Path) -> None:
    signals = [np.zeros(8_000, np.float32), np.ones(9_000, np.float32)]
    times = profile({"float": exported}, signals, layers(), repeats=1)["float"].ms
    assert all(times[layer] > 0 for layer in layers())
    assert times[REST] > 0
    sizes = constant_bytes(exported, layers())
    module = build("wav2vec2")
    for layer in layers():
        held = module.get_submodule(layer)
        # a layer without one weight is recurrent; biases are zeros here, which layers may share
        parameters = [held.weight] if hasattr(held, "weight") else list(held.parameters())
        weight = 4 * sum(item.numel() for item in parameters)
        assert weight <= sizes[layer] <= weight * 1.1 + 400, layer
    assert sum(sizes.values()) == pytest.approx(exported.stat().st_size, abs=100_000)


def test_a_folder_is_timed_as_its_own_search_runs_it(tmp_path: Path) -> None:
    module = attention_model(tmp_path)
    folder = export(module, tmp_path / "float", "float").path
    names = [layer for unit in units_of(module, all_candidates([8])) for layer in unit.layers]
    signals = [noise(1, seconds)[0].numpy() for seconds in (0.5, 0.8)]
    times = profile({"float": folder}, signals, names, repeats=1)["float"].ms
    assert times[REST] > 0
    for layer in (
        "encoder.RNN.rnn",
        "decoder.attn.mlp_dec",
        "decoder.rnn.rnn_cells.0",
        "seq_lin.w",
        "lm.out.w",
    ):
        assert times[layer] > 0, layer
    sizes = constant_bytes(folder, names)
    assert sizes["seq_lin.w"] >= 4 * module.seq_lin.w.weight.numel()
    assert sizes["encoder.RNN.rnn"] >= 4 * sum(item.numel() for item in module.encoder.RNN.rnn.parameters())


def test_each_signal_has_the_runs_of_its_own_search(tmp_path: Path) -> None:
    folder = export(attention_model(tmp_path), tmp_path / "float", "float").path
    session = ProfiledFolder(folder, tmp_path, 1)
    for seconds in (0.8, 0.5, 0.8):
        session.run_signal(noise(1, seconds)[0].numpy())
    encoder, *steps = session.counted
    assert encoder.count == 3 and all(engine.count > 3 for engine in steps)
    long, short, again = [len(events) for events in session.runs()]
    assert long == again > short > 0


def test_events_are_cut_into_runs() -> None:
    def node(name: str, ts: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": 500}

    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 990} for ts in (0, 1000)]
    found = split_runs([*runs, node("a/Conv", 10), node("a/Conv", 1010), node("x/Add", 1020)])
    assert [node_times(run, ["a"]) for run in found] == [{"a": 0.5}, {"a": 0.5, REST: 0.5}]
