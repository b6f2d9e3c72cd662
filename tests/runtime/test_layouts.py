"""The order of axes in float layers, and levels that are moved instead of floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from speechbrain.nnet.pooling import Pooling1d
from torch import Tensor, nn

from qat.layer_recipe import LayerRecipe
from qat.layers.state import calibrate_weights_, finish_calibration_, set_enabled_
from qat.layers.swap import quantize_layer
from qat.runtime import export as export_module
from qat.runtime.export import export_onnx, trace
from qat.runtime.graph import all_nodes, optimised_graph
from qat.runtime.layers import PartlyQuantized, replace_layers_
from qat.runtime.layouts import MOVES, ExchangedConv, arrange_, quantize_first_
from qat.runtime.loops import constant
from tests.conftest import noise
from tests.runtime.conftest import Exported, quantized

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2)},
    {"kernel_size": (2, 3), "dilation": (1, 2), "groups": 2, "bias": False},
    {"kernel_size": (3, 3), "padding": "same"},
]
POOLINGS: list[tuple[str, int, dict[str, Any]]] = [
    ("max", 1, {"kernel_size": 3}),
    ("max", 2, {"kernel_size": 2, "ceil_mode": True}),
    ("max", 2, {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("avg", 1, {"kernel_size": 4, "stride": 3}),
    ("avg", 2, {"kernel_size": 2}),
]
REVERSED = [0, 3, 2, 1]


def transposes(path: Path) -> list[list[int]]:
    """The orders of axes that a file asks for when it runs."""
    nodes = all_nodes(optimised_graph(path).graph)
    return [list(node.attribute[0].ints) for node in nodes if node.op_type == "Transpose"]


@pytest.mark.parametrize("options", CONVOLUTIONS)
@torch.no_grad()
def test_a_convolution_stays_what_it_is(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, **options))
    x = torch.randn(2, 4, 9, 11)
    expected = model(x)
    assert arrange_(model) == 1 and type(model[0]) is ExchangedConv
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_weight_in_few_bits_is_exchanged_as_well() -> None:
    torch.manual_seed(0)
    layer = quantize_layer(nn.Conv2d(4, 6, (3, 5)), LayerRecipe(weight_bits=4, activation_bits=None))
    model: Any = nn.Sequential(layer)
    calibrate_weights_(model)
    finish_calibration_(model)
    set_enabled_(model, True)
    x = torch.randn(2, 4, 9, 11)
    expected = model(x)
    replace_layers_(model, "integer")
    assert arrange_(model) == 1 and isinstance(model[0], PartlyQuantized)
    assert model[0].stored.levels.shape == (6, 4, 5, 3) and model[0].kernel_size == (3, 5)
    weight = model[0].stored.levels.transpose(2, 3) * model[0].stored.scale
    plain = torch.nn.functional.conv2d(x, weight, layer.bias)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)


def test_what_mirrors_its_input_or_pools_another_axis_is_left_alone() -> None:
    mirroring = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
    assert arrange_(nn.Sequential(mirroring, Pooling1d("max", 2), Pooling1d("max", 2, 4, pool_axis=3))) == 0


@pytest.mark.parametrize(("kind", "axis", "options"), POOLINGS)
def test_pooling_has_the_bits_of_speechbrains(
    kind: str, axis: int, options: dict[str, Any], tmp_path: Path
) -> None:
    model = nn.Sequential(Pooling1d(kind, input_dims=4, pool_axis=axis, **options))
    x = torch.randn(2, 23, 10, 5, generator=torch.Generator().manual_seed(0))
    expected: Tensor = model(x)
    assert arrange_(model) == 1
    path = tmp_path / "pooling.onnx"
    save(model, path)
    (found,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    assert (
        np.array_equal(found, expected.numpy()) if kind == "max" else np.allclose(found, expected, atol=1e-6)
    )
    assert transposes(path) == []


def save(model: nn.Module, path: Path) -> None:
    """The file of a module of `(B, T, F, C)`."""
    ir.save(trace(model, {"x": torch.zeros(2, 30, 10, 5)}, ["y"]), path)


def test_no_axes_are_reversed_in_a_file(crdnn: Exported, tmp_path: Path) -> None:
    """Of floats, integers, and stored weights alone."""
    stored = export_onnx(quantized("crdnn", activation_granularity="dynamic"), tmp_path / "s.onnx", "integer")
    assert crdnn.float is not None
    for file in (crdnn.float, crdnn.integer, stored):
        assert transposes(file.path) and REVERSED not in transposes(file.path)


def test_levels_are_moved_and_the_bits_stay(
    crdnn: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But after pooling, where ONNX Runtime would pool levels, which is slow."""
    monkeypatch.setattr(export_module, "quantize_first_", lambda model: 0)
    late = export_onnx(crdnn.module, tmp_path / "late.onnx", "integer")
    signal = noise(2, 1.3, seed=4).numpy()
    inputs = {"signal": signal, "lengths": np.array([signal.shape[1], 9000])}
    outs = [
        ort.InferenceSession(str(file.path), providers=["CPUExecutionProvider"]).run(None, inputs)
        for file in (late, crdnn.integer)
    ]
    assert all(np.array_equal(*pair) for pair in zip(*outs, strict=True))
    assert {"ScatterND"} <= quantized_before(crdnn.integer.path).keys()
    assert not quantized_before(late.path)


def quantized_before(path: Path) -> dict[str, int]:
    """Operators that read levels and only move them, and how many of them there are."""
    nodes = list(onnx.load(path).graph.node)
    levels = {output for node in nodes if node.op_type == "QuantizeLinear" for output in node.output}
    made = {output: node.op_type for node in nodes for output in node.output}
    rounded = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert "MaxPool" not in {made.get(name) for name in rounded}
    found = dict[str, int]()
    for node in nodes:
        if node.op_type in MOVES and levels & set(node.input):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def chain(mode: str, scale: list[float], readers: int) -> tuple[ir.Model, list[ir.Node]]:
    """LeakyRelu, Pad, Transpose, and so many QuantizeLinear."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 4, 6]))
    values = {
        "pads": constant("pads", np.array([0, 0, 1, 0, 0, 1], np.int64)),
        "scale": constant("scale", np.array(scale, np.float32).squeeze()),
        "zero": constant("zero", np.uint8(3)),
    }
    relu = ir.node("LeakyRelu", [x], name="relu")
    pad = ir.node("Pad", [relu.outputs[0], values["pads"]], {"mode": mode}, name="pad")
    turn = ir.node("Transpose", [pad.outputs[0]], {"perm": [0, 2, 1]}, name="turn")
    rounded = [
        ir.node("QuantizeLinear", [turn.outputs[0], values["scale"], values["zero"]], name=f"q{index}")
        for index in range(readers)
    ]
    nodes = [relu, pad, turn, *rounded, *(ir.node("Identity", [node.outputs[0]]) for node in rounded)]
    for index, node in enumerate(nodes):
        node.outputs[0].name = f"{node.op_type}{index}"
    for node in rounded:
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    outputs = [node.outputs[0] for node in nodes[-readers:]]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=list(values.values()), opset_imports={"": 21})
    return ir.Model(graph, ir_version=10), nodes


@pytest.mark.parametrize(
    ("mode", "scale", "readers"),
    [("constant", [0.1], 1), ("reflect", [0.1, 0.2], 1), ("reflect", [0.1], 2)],
)
def test_levels_are_not_moved_where_that_would_change_them(
    mode: str, scale: list[float], readers: int
) -> None:
    """Zeros that a Pad adds are no levels; scales of channels move with them; two readers want floats once."""
    model, nodes = chain(mode, scale, readers)
    assert quantize_first_(model) == (1 if mode == "constant" else 0)
    assert nodes[1].inputs[0] is nodes[0].outputs[0]  # the Pad still reads floats


def test_levels_are_moved_through_mirroring_and_transposing() -> None:
    model, nodes = chain("reflect", [0.1], 1)
    assert quantize_first_(model) == 1
    assert [node.op_type for node in model.graph] == [
        *("LeakyRelu", "QuantizeLinear", "Pad", "Transpose", "Identity"),
    ]
    assert nodes[2].outputs[0].dtype == ir.DataType.UINT8


def test_what_a_graph_gives_out_stays_float() -> None:
    """A step of the attention model gives out what the next product reads."""
    model, nodes = chain("reflect", [0.1], 1)
    model.graph.outputs.append(nodes[1].outputs[0])
    assert quantize_first_(model) == 1
    assert nodes[2].inputs[0] is not nodes[1].outputs[0] and nodes[1].inputs[0] is nodes[0].outputs[0]
    model, nodes = chain("reflect", [0.1], 1)
    model.graph.outputs.append(nodes[2].outputs[0])
    assert quantize_first_(model) == 0
