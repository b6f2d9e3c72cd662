"""Every layer class: the file's arithmetic equals the fake-quantized module's, on integers, from int8 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from qat.layer_recipe import LayerRecipe
from qat.layers.activation import ActivationQuantizer
from qat.layers.conv import QuantFrameConv1d
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_
from qat.layers.swap import quantize_layer
from qat.runtime.export import trace
from qat.runtime.graph import INTEGER
from qat.runtime.layers import FrameConv
from qat.runtime.packing import name_nodes_
from tests.runtime.conftest import ExportedZoo, layer_zoo

NAMES = list(layer_zoo())
PARTLY = [name for name in NAMES if name.endswith("_only")]
BLOCKS = [
    name for name in NAMES if name.startswith("linear_blocks")
]  # float sums of blocks, in another order
EXACT = [name for name in NAMES if name not in PARTLY + BLOCKS and not name.startswith("lstm")]
# Sums are exact on both sides; what is left is float32 rounding, and one step of an 8-bit state of an LSTM, whose
# sigmoid and tanh are computed otherwise.
ROUNDING = 2e-5


def step_of(zoo: ExportedZoo, name: str) -> float:
    """The largest step by which one level of an intermediate result may move the output."""
    layer = zoo.reference.layers[name]
    if name.startswith("conv"):
        output = getattr(layer, "output_quantizer", None)
        return float(output.scale) if isinstance(output, ActivationQuantizer) else 0.0
    return 0.01 if name.startswith("lstm") and name not in PARTLY else 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "frames"), [(1, 37), (1, 9)])
def test_the_file_computes_what_the_module_does(zoo: ExportedZoo, name: str, batch: int, frames: int) -> None:
    expected, actual = zoo.both(batch, frames)[name]
    assert expected.shape == actual.shape
    difference = (expected - actual).abs()
    assert difference.max() <= step_of(zoo, name) * 1.001 + ROUNDING
    assert (difference > ROUNDING).float().mean() < (0.5 if name.startswith("lstm") else 0.02)


@pytest.mark.parametrize("name", EXACT)
def test_an_integer_layer_and_its_file_agree_to_the_last_bit(zoo: ExportedZoo, name: str) -> None:
    for batch, frames in ((1, 37), (3, 21)):
        expected, actual = zoo.both(batch, frames)[name]
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("lstm")])
def test_batches_run_in_the_same_file(zoo: ExportedZoo, name: str) -> None:
    expected, actual = zoo.both(3, 21)[name]
    assert (expected - actual).abs().max() <= step_of(zoo, name) * 1.001 + ROUNDING


def weights_below(model: onnx.ModelProto, name: str) -> dict[str, onnx.TensorProto]:
    prefix = f"layers.{name}."
    return {item.name: item for item in model.graph.initializer if item.name.startswith(prefix)}


@pytest.mark.parametrize("name", [name for name in NAMES if "activations_only" not in name])
def test_stored_weights_are_integers(zoo: ExportedZoo, name: str) -> None:
    found = weights_below(zoo.stored, name)
    matrices = [found[key] for key in found if len(found[key].dims) >= 2 and not key.endswith(".zero_point")]
    integers = [item for item in matrices if item.data_type not in (TensorProto.FLOAT, TensorProto.INT32)]
    bits, blocks = layer_zoo()[name][1].get("weight_bits", 8), name.startswith("linear_blocks")
    width = {8: TensorProto.INT8, 4: TensorProto.UINT8 if blocks else TensorProto.INT4}.get(
        bits, TensorProto.UINT8
    )
    assert integers and all(item.data_type == width for item in integers)
    counts = sum(p.numel() for p in zoo.reference.layers[name].parameters() if p.ndim > 1)
    stored = sum(len(item.raw_data) for item in integers)
    padding = counts if blocks else len(integers) * bits
    assert counts * bits / 8 <= stored <= counts * bits / 8 + padding  # really so many bits
    floats = [item.name for item in matrices if item.data_type == TensorProto.FLOAT]
    assert all(item.endswith(("scale", "bias")) for item in floats)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PARTLY])
def test_optimised_graph_computes_on_integers(zoo: ExportedZoo, name: str) -> None:
    inside = (f"layers.{name}/", f"layers.{name}.")
    nodes = [node for node in zoo.optimised.graph.node if node.name.startswith(inside)]
    assert any(node.op_type in INTEGER for node in nodes)
    assert not any(node.op_type in ("Conv", "MatMul", "Gemm", "LSTM", "FusedConv") for node in nodes)


@dataclass
class ByWindow:
    """A convolution whose windows have a range each: the layer, its exported form, and the file."""

    layer: QuantFrameConv1d
    form: FrameConv
    stored: onnx.ModelProto
    engine: ort.InferenceSession


@pytest.fixture(scope="module", params=[(3, 2, 1), (2, 2, 1), (3, 1, 2)], ids=str)
def by_window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ByWindow:
    """One of width, stride and dilation."""
    width, stride, dilation = request.param
    torch.manual_seed(0)
    recipe = LayerRecipe(reduce_range=True, activation_granularity="frame")
    layer: Any = quantize_layer(nn.Conv1d(4, 6, width, stride, dilation=dilation), recipe)
    layer.eval()
    calibrate_weights_(layer)
    finish_calibration_(layer)
    set_enabled_(layer, True)
    with torch.no_grad():
        form = FrameConv(layer)
    inputs = {"x": torch.randn(2, 20, 4)}
    model = trace(form, inputs, ["y"], run=lambda module, x: module(x.transpose(1, 2)))
    name_nodes_(model, [])
    path = tmp_path_factory.mktemp("by_window") / "conv.onnx"
    ir.save(model, path)
    engine = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return ByWindow(layer, form, onnx.load(str(path)), engine)


def window_by_window(form: FrameConv, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The formula in NumPy: each window cut out, its range, its levels, their product; `(B, C, T)` -> `(B, O, T')`."""
    (width,), (step,), (stride,) = form.kernel_size, form.dilation, form.stride
    assert form.bias is not None
    weight, unit, bias = form.weight.numpy().astype(np.int64), form.weight_scale.numpy(), form.bias.numpy()
    rows = []
    for begin in range(0, x.shape[2] - (width - 1) * step, stride):
        window = x[:, :, begin : begin + (width - 1) * step + 1 : step].transpose(0, 2, 1).reshape(len(x), -1)
        low, high = np.minimum(window.min(1), 0)[:, None], np.maximum(window.max(1), 0)[:, None]
        scale = (high - low) / np.float32(255)
        scale = np.where(scale == 0, np.float32(1), scale)
        zero_point = np.clip(np.rint(-(low / scale)), 0, 255)
        levels = np.clip(np.rint(window / scale) + zero_point, 0, 255)
        sums = ((levels - zero_point).astype(np.int64) @ weight).astype(np.float32)
        rows.append((sums * unit) * scale + bias)
    return np.stack(rows, axis=2)


@pytest.mark.parametrize("frames", [5, 6, 18, 19])
def test_ranges_taken_by_frame_are_those_of_the_windows_to_the_last_bit(
    by_window: ByWindow, frames: int
) -> None:
    x = np.random.default_rng(frames).standard_normal((3, 4, frames)).astype(np.float32)
    x *= np.logspace(-20, 4, frames, dtype=np.float32)
    x[1, :, : frames // 2] = 0  # silence
    x[2] = np.abs(x[2])  # zero lies at the end of the range
    (actual,) = by_window.engine.run(None, {"x": x.transpose(0, 2, 1)})
    expected = window_by_window(by_window.form, x)
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)
    with torch.no_grad():
        np.testing.assert_array_equal(by_window.layer(torch.from_numpy(x)).numpy(), expected)


def test_each_value_is_reduced_once_and_windows_are_joined_as_bytes(by_window: ByWindow) -> None:
    graph = by_window.stored.graph
    kinds = [node.op_type for node in graph.node]
    assert [kinds.count(kind) for kind in ("ReduceMin", "ReduceMax", "MaxPool")] == [1, 1, 1]
    makers = {name: node for node in graph.node for name in node.output}
    (product,) = (node for node in graph.node if node.op_type == "MatMulIntegerToFloat")
    joined = makers[product.input[0]]
    count = by_window.layer.kernel_size[0]
    parts = [makers[name].op_type for name in joined.input]
    assert joined.op_type == "Concat" and set(parts[:count]) == {"QuantizeLinear"}
    assert parts[count:] and set(parts[count:]) <= {
        "Cast",
        "Concat",
    }  # zero points, one by one or eight at once
