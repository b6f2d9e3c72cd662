"""A portable file's layers in float are named, whatever engine runs it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qat.evaluation.graphs import nodes_of
from qat.evaluation.portable import LSTM_REASON, NODE_REASON, check_export, engine_nodes, float_layers
from qat.layers.coverage import coverage
from qat.recipe import Recipe
from qat.runtime.export import export_onnx
from qat.runtime.formats import ExportOptions
from qat.runtime.openvino_engine import OpenVinoEngine
from qat.system.errors import UserError
from tests.conftest import build
from tests.runtime.conftest import Exported


def test_a_portable_file_names_the_layers_that_it_computes_in_float(crdnn: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(crdnn.module, path, "integer", file_format="qdq")
    for nodes in (nodes_of(path), engine_nodes(OpenVinoEngine(path, 1))):
        assert float_layers(crdnn.module, nodes, "qdq") == {"crdnn.RNN.rnn": LSTM_REASON}
        shares = coverage(crdnn.module, in_float=["crdnn.RNN.rnn"])
        assert shares["skipped"] == ["crdnn.RNN.rnn"] and shares["weights"] == 1.0
    assert not float_layers(crdnn.module, nodes, "onnxruntime")
    more = replace(nodes, float_weights={"head/MatMul": "head/MatMul"})
    assert float_layers(crdnn.module, more, "qdq")["head"] == NODE_REASON


def test_what_a_report_would_fail_on_is_refused_before(
    crdnn: Exported, attention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    portable = ExportOptions("qdq")
    check_export(crdnn.module, ExportOptions(), "onnxruntime")
    check_export(crdnn.module, portable, "openvino")
    with pytest.raises(UserError, match="must go with format qdq"):
        check_export(crdnn.module, ExportOptions(), "openvino")
    with pytest.raises(UserError, match="must be onnxruntime for an attention model"):
        check_export(attention.module, portable, "onnxruntime")
    blocks = build("crdnn", Recipe(preset="x", weight_bits=4, four_bit_linear="matmul_nbits"))
    with pytest.raises(UserError, match="must go with --qat.four_bit_linear integer"):
        check_export(blocks, portable, "onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino must be installed"):
        check_export(crdnn.module, portable, "openvino")
