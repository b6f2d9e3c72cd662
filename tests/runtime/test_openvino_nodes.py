"""Nodes of a compiled model are told apart by what OpenVINO says of them."""

from __future__ import annotations

from pathlib import Path

from qat.runtime.export import export_onnx
from qat.runtime.openvino_engine import OpenVinoEngine
from qat.runtime.openvino_nodes import RECURRENT, count_compiled_nodes
from tests.runtime.conftest import Exported


def test_a_float_file_has_no_integer_node_and_a_portable_one_has(crdnn: Exported, tmp_path: Path) -> None:
    assert crdnn.float is not None
    plain = count_compiled_nodes(OpenVinoEngine(crdnn.float.path, 1))
    assert not plain.integer and plain.float_compute and plain.frontend
    export_onnx(crdnn.module, tmp_path / "model.onnx", "integer", file_format="qdq")
    found = count_compiled_nodes(OpenVinoEngine(tmp_path / "model.onnx", 1))
    assert set(found.integer.values()) == {"Convolution", "FullyConnected"}
    assert set(found.float_compute.values()) <= RECURRENT and set(found.frontend) == set(plain.frontend)
