"""Zero points of rows within the integer product."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qat.runtime.frames import REDUCED, expand_frame_linear_, zero_point_rows
from qat.runtime.loops import constant
from qat.runtime.operators import FRAME_LINEAR, LOOPS
from tests.runtime.conftest import ExportedZoo


@pytest.mark.parametrize("largest", [1, 7, REDUCED, 127])
def test_rows_below_a_weight_make_each_column_add_up_to_zero(largest: int) -> None:
    rng = np.random.default_rng(largest)
    weight = rng.integers(-largest, largest + 1, (700, 9)).astype(np.int8)
    weight[:, 0], weight[:, 1] = largest, -largest
    rows = zero_point_rows(weight)
    assert rows.dtype == np.int8 and np.abs(rows).max() <= max(largest, REDUCED - 1)
    assert not (weight.sum(0, dtype=np.int64) + rows.sum(0, dtype=np.int64)).any()
    levels, zero_point = rng.integers(0, 256, (5, 700)), rng.integers(0, 256, (5, 1))
    beside = np.concatenate([levels, np.repeat(zero_point, len(rows), 1)], 1)
    below = np.concatenate([weight, rows]).astype(np.int64)
    assert np.array_equal(beside @ below, (levels - zero_point) @ weight.astype(np.int64))


def test_a_weight_whose_columns_add_up_to_zero_gets_one_row() -> None:
    assert zero_point_rows(np.array([[3, -2], [-3, 2]], np.int8)).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "name", ["linear_frames", "linear_frames_3_bits", "conv_frames", "conv_frames_dilated"]
)
def test_the_file_has_the_bits_of_the_module(zoo: ExportedZoo, name: str) -> None:
    expected, actual = zoo.both(1, 37)[name]
    assert np.array_equal(expected.numpy(), actual.numpy())


def test_the_matrix_is_joined_when_the_file_is_loaded(zoo: ExportedZoo) -> None:
    """Narrow weights stay packed in the file; the engine has one constant for each product."""
    fixed = {item.name: item for item in zoo.optimised.graph.initializer}
    products = [
        node
        for node in zoo.optimised.graph.node
        if node.op_type == "MatMulIntegerToFloat" and "FrameLinear" in node.name
    ]
    assert len(products) >= 4 and all(node.input[1] in fixed for node in products)
    packed = [item for item in zoo.stored.graph.initializer if item.data_type == onnx.TensorProto.INT4]
    assert any("conv_frames" in item.name for item in packed)


def test_zero_points_are_joined_to_the_levels_once_for_all_layers_that_read_them(zoo: ExportedZoo) -> None:
    """And nothing is left over of the nodes that were written out in another way."""
    nodes = zoo.stored.graph.node
    read = {name for node in nodes for name in node.input} | {item.name for item in zoo.stored.graph.output}
    assert not [node.name for node in nodes if not read & set(node.output)]
    assert not any(node.op_type == "Tile" for node in nodes)
    joined = [node for node in nodes if node.op_type == "Concat" and "FrameLinear" in node.name]
    assert any(len(node.input) > 3 for node in joined)


def test_readers_of_the_same_levels_have_as_many_zero_points() -> None:
    """Each of two weights needs another number of rows; both get the larger one, and one node joins the levels."""
    graph, inputs = ir.Graph([], [], nodes=[]), [ir.Value(name=name) for name in ("x", "scale", "zero")]
    one_scale = constant("weight_scale", np.ones(2, np.float32))
    for index, level in enumerate((100, 3)):
        weight = constant(f"w{index}", np.full((50, 2), level, np.int8))
        node = ir.node(FRAME_LINEAR, [*inputs, weight, one_scale], domain=LOOPS, name=f"layer_{index}")
        node.outputs[0].name = f"y{index}"
        graph.append(node)
    model = ir.Model(graph, ir_version=10)
    assert expand_frame_linear_(model) == 2
    products = [node for node in graph if node.op_type == "MatMulIntegerToFloat"]
    assert products[0].inputs[0] is products[1].inputs[0]
    rows = [graph.initializers[f"w{index}.zero_point"].const_value.numpy() for index in range(2)]
    assert rows[0].shape == rows[1].shape == (40, 2)
    assert (rows[0].sum(0) == -5000).all() and (rows[1].sum(0) == -150).all()
