"""Zero points of rows within the integer product."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qat.runtime.frames import REDUCED, zero_point_rows
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
