"""TensorRT's rules on files of this project: what breaks them is named, node by node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qat.layers.lstm import QuantLSTM
from qat.layers.swap import quant_layers
from qat.models.ctc import CTCModule
from qat.runtime.export import export_onnx
from qat.runtime.session import Session
from qat.runtime.tensorrt import faults
from tests.conftest import noise
from tests.runtime.conftest import Exported, quantized


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


def test_four_bit_weights_are_int8_for_tensorrt_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(quantized("crdnn", weight_bits=4), path, "integer", file_format="qdq")
    assert any("Cast of INT4, must be INT8" in line for line in faults(path))
    module = quantized("crdnn", weight_bits=4, target="tensorrt", four_bit_linear="integer")
    export_onnx(module, path, "integer", file_format="qdq")
    assert TensorProto.INT4 not in {item.data_type for item in onnx.load(str(path)).graph.initializer}
    assert not any("INT4" in line for line in faults(path))


@pytest.fixture(scope="module", params=["crdnn", "wav2vec2"])
def for_tensorrt(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CTCModule, Path]:
    """A tiny model with TensorRT's arithmetic, and its file."""
    module, path = (
        quantized(request.param, target="tensorrt"),
        tmp_path_factory.mktemp("tensorrt") / "model.onnx",
    )
    export_onnx(module, path, "integer", file_format="qdq")
    return module, path


def test_a_model_for_tensorrt_keeps_the_rules(for_tensorrt: tuple[CTCModule, Path]) -> None:
    """But for what has no weights to quantize, or no integer kernel anywhere."""
    module, path = for_tensorrt
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    left = [line for line in faults(path) if "computes in float" not in line]
    assert not left
    assert not any(layer.dynamic for _, layer in quant_layers(module) if isinstance(layer, QuantLSTM))
    named = {name for name, layer in quant_layers(module) if not isinstance(layer, torch.nn.LSTM)}
    in_float = {line.partition("/")[0] for line in faults(path)}
    assert not named & in_float


@torch.no_grad()
def test_its_file_computes_what_the_module_does(for_tensorrt: tuple[CTCModule, Path]) -> None:
    module, path = for_tensorrt
    signal = noise(1, 1.7, seed=3)
    ours = module(signal, torch.tensor([signal.shape[1]]))[0][0]
    theirs = torch.from_numpy(Session(path).logits(signal[0].numpy()))
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.97
    torch.testing.assert_close(ours, theirs, atol=0.15, rtol=0.0)
