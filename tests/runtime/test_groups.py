"""Convolutions of merged groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qat.runtime.graph import optimised_graph
from qat.runtime.groups import merge_groups_


def grouped(groups: int, outputs: int, inputs: int, kernel: tuple[int, ...]) -> onnx.ModelProto:
    """One integer convolution with random weights."""
    rng = np.random.default_rng(0)
    channels = groups * outputs
    weight = rng.integers(-127, 128, (channels, inputs, *kernel)).astype(np.int8)
    stored = {
        **{"s": np.float32(0.02), "z": np.uint8(120), "w": weight},
        **{"ws": rng.uniform(0.001, 0.01, channels).astype(np.float32), "wz": np.zeros(channels, np.int8)},
        **{
            "os": np.float32(0.3),
            "oz": np.uint8(100),
            "b": rng.integers(-900, 900, channels).astype(np.int32),
        },
    }
    node = helper.make_node(
        "QLinearConv",
        ["x", *stored],
        ["y"],
        group=groups,
        pads=[1] * 2 * len(kernel),
        strides=[1] * len(kernel),
    )
    axes = [f"t{index}" for index in range(len(kernel))]
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["b", groups * inputs, *axes])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["b", channels, *[f"u{i}" for i in kernel]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("kernel", [(5,), (3, 2)])
@pytest.mark.parametrize(
    ("groups", "outputs", "inputs", "after"), [(16, 9, 9, 4), (6, 4, 3, 3), (4, 30, 2, 4)]
)
def test_sums_are_the_same_integers(
    kernel: tuple[int, ...], groups: int, outputs: int, inputs: int, after: int, tmp_path: Path
) -> None:
    proto = grouped(groups, outputs, inputs, kernel)
    model = ir.from_proto(proto)
    changed = merge_groups_(model)
    assert changed == (after < groups)
    path = tmp_path / "merged.onnx"
    ir.save(model, path)
    onnx.checker.check_model(str(path))
    nodes = optimised_graph(path).graph.node
    (conv,) = (node for node in nodes if node.op_type == "QLinearConv")
    assert next(item.i for item in conv.attribute if item.name == "group") == after
    others = {node.op_type for node in nodes} - {"QLinearConv"}
    assert others <= {"Transpose"}  # the rest is done once, when the file is loaded
    stored = {item.name: tuple(item.dims) for item in onnx.load(str(path)).graph.initializer}
    assert stored["w"] == (groups * outputs, inputs, *kernel)
    x = np.random.default_rng(1).integers(0, 256, (2, groups * inputs, *[12] * len(kernel))).astype(np.uint8)
    plain, wide = (
        ort.InferenceSession(item, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for item in (proto.SerializeToString(), str(path))
    )
    assert np.array_equal(plain, wide) and len(np.unique(plain)) > 20
