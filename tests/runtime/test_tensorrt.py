"""TensorRT's rules on files of this project: what breaks them is named, node by node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qat.runtime.export import export_onnx
from qat.runtime.tensorrt import faults
from tests.runtime.conftest import Exported


def pairs(zero_point: np.ndarray, path: Path) -> Path:
    """A product between pairs with a zero point."""
    node, scale = helper.make_node, numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["levels"], name="quantize"),
        node("DequantizeLinear", ["levels", "scale", "zero"], ["left"], name="dequantize"),
        node("DequantizeLinear", ["weight", "scale", "int8"], ["rows"], name="weight"),
        node("Transpose", ["rows"], ["right"], name="transpose", perm=[1, 0]),
        node("MatMul", ["left", "right"], ["y"], name="product"),
    ]
    stored = [
        scale,
        numpy_helper.from_array(zero_point, "zero"),
        numpy_helper.from_array(np.zeros((), np.int8), "int8"),
        numpy_helper.from_array(np.ones((3, 2), np.int8), "weight"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)), str(path))
    return path


def test_signed_levels_around_zero_keep_the_rules(tmp_path: Path) -> None:
    assert not faults(pairs(np.array(0, np.int8), tmp_path / "a.onnx"))
    moved = faults(pairs(np.array(3, np.int8), tmp_path / "b.onnx"))
    assert moved == [f"{node}: its zero point must be 0" for node in ("quantize", "dequantize")]
    unsigned = faults(pairs(np.array(0, np.uint8), tmp_path / "c.onnx"))
    assert [line.partition(":")[0] for line in unsigned] == ["quantize", "dequantize"]


def test_the_command_says_what_breaks_them(crdnn: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(crdnn.module, path, "integer", file_format="qdq")
    command = [sys.executable, "-m", "qat.runtime.tensorrt", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "its levels must be INT8 or INT4, are UINT8" in done.stdout
    assert "LSTM computes in float" in done.stdout and "frontend/fbank/Conv: Conv has no" in done.stdout
    assert any("com.microsoft" in line for line in faults(crdnn.integer.path))
