"""A portable file's layers in float are named, whatever engine runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qat.evaluation.graphs import nodes_of
from qat.evaluation.portable import (
    CUDA_NOTE,
    LSTM_REASON,
    NODE_REASON,
    UNKNOWN_REASON,
    engine_nodes,
    float_layers,
    nodes_that_ran,
    without_integers,
)
from qat.layers.coverage import coverage
from qat.layers.swap import quant_layers
from qat.runtime.attention_export import export
from qat.runtime.attention_session import open_session
from qat.runtime.export import export_onnx
from qat.runtime.formats import Runner
from qat.runtime.gpu import NAMES
from qat.runtime.openvino_engine import OpenVinoEngine
from qat.runtime.session import Session
from tests.runtime.conftest import Exported


def test_a_portable_file_names_the_layers_that_it_computes_in_float(crdnn: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(crdnn.module, path, "integer", file_format="qdq")
    for nodes in (nodes_of(path), engine_nodes({"": OpenVinoEngine(path, 1)})):
        assert float_layers(crdnn.module, nodes, "qdq") == {"crdnn.RNN.rnn": LSTM_REASON}
        shares = coverage(crdnn.module, in_float=["crdnn.RNN.rnn"])
        assert shares["skipped"] == ["crdnn.RNN.rnn"] and shares["weights"] == 1.0
    assert not float_layers(crdnn.module, nodes, "onnxruntime")
    more = replace(nodes, float_weights={"head/MatMul": "head/MatMul"})
    assert float_layers(crdnn.module, more, "qdq")["head"] == NODE_REASON


@pytest.mark.parametrize("runner", [Runner(), Runner("openvino")], ids=["onnxruntime", "openvino"])
def test_all_graphs_of_a_folder_count(attention: Any, tmp_path: Path, runner: Runner) -> None:
    path = export(attention.module, tmp_path / "model", "integer", file_format="qdq").path
    nodes = nodes_that_ran(open_session(path, runner=runner), path)
    for layer in attention.module.swap_report.swapped:
        if "mbedding" not in layer and layer != "encoder.RNN.rnn":  # looked up; a float LSTM in such a file
            assert any(name.startswith(layer) for name in nodes.integer), layer
    in_float = float_layers(attention.module, nodes, "qdq")
    assert in_float["encoder.RNN.rnn"] == LSTM_REASON
    assert {name for name in in_float if name != "encoder.RNN.rnn"} <= dict(
        attention.module.swap_report.skipped
    ).keys()


def test_a_gpu_without_integer_kernels_leaves_every_layer_to_float(crdnn: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(crdnn.module, path, "integer", file_format="qdq")
    session = Session(path)
    assert nodes_that_ran(session, path) == nodes_of(path) and not without_integers(session)
    session.provider = NAMES["tensorrt"]
    nodes, reason = nodes_that_ran(session, path), without_integers(session)
    assert not nodes.integer and reason == UNKNOWN_REASON
    in_float = float_layers(crdnn.module, nodes, "qdq", reason)
    assert in_float == {name: UNKNOWN_REASON for name, _ in quant_layers(crdnn.module)}
    assert set(coverage(crdnn.module, in_float=list(in_float))["skipped"]) == set(in_float)
    session.provider = NAMES["cuda"]
    assert without_integers(session) == CUDA_NOTE
