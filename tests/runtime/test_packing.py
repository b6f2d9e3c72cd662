"""Names, storage and size of the written file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qat.runtime.packing import name_axes_, unpack_four_bits, unpack_planes, write_atomically
from qat.system.errors import UserError
from tests.runtime.conftest import Exported, output_folder


def test_integer_file_is_smaller(crdnn: Exported) -> None:
    weights = {}
    for info in (crdnn.integer, crdnn.float):
        assert info is not None
        tensors = [item for item in onnx.load(str(info.path)).graph.initializer if "fbank" not in item.name]
        weights[info.precision] = sum(onnx.numpy_helper.to_array(item).nbytes for item in tensors)
    assert weights["integer"] < 0.6 * weights["float"]


def test_one_file_without_paths_of_this_machine(exported: Exported) -> None:
    assert not [name for name in output_folder(exported.integer.path) if not name.endswith(".onnx")]
    content = exported.integer.path.read_bytes()
    assert str(Path(__file__).resolve().parents[2]).encode() not in content
    assert b"site-packages" not in content


def axes_of(values: list[onnx.ValueInfoProto]) -> dict[str, list[str | int]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_inputs_and_outputs_name_their_axes(exported: Exported) -> None:
    graph = onnx.load(str(exported.integer.path)).graph
    assert axes_of(list(graph.input)) == {"signal": ["batch", "samples"], "lengths": ["batch"]}
    labels = len(exported.module.vocabulary)
    assert axes_of(list(graph.output)) == {"logits": ["batch", "frames", labels], "frames": ["batch"]}
    inner = {str(axis) for axes in axes_of(list(graph.value_info)).values() for axis in axes}
    words = {word for axis in inner for word in "".join(c if c.isalnum() else " " for c in axis).split()}
    assert {word for word in words if not word.isdigit()} == {"batch", "samples", "frames"}


def test_a_formula_of_an_input_axis_keeps_its_form_and_gets_the_name() -> None:
    def value(name: str, *dims: int | str) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))

    x, y = value("x", "s1", "s12"), value("y", "s1", "s12//2", 4)
    nodes = [
        ir.Node("", "A", [x], outputs=[value("inner", "s12 + s1", "s12//2")]),
        ir.Node("", "B", [x], outputs=[y]),
    ]
    model = ir.Model(ir.Graph([x], [y], nodes=nodes), ir_version=10)
    name_axes_(model, {"x": ("batch", "time"), "y": ("batch", "frames")})
    shapes = [
        [getattr(dim, "value", dim) for dim in item.shape or ()] for item in (x, nodes[0].outputs[0], y)
    ]
    assert shapes == [["batch", "time"], ["time + batch", "frames"], ["batch", "frames", 4]]


@pytest.mark.parametrize(("bits", "low", "step"), [(2, -2, 1), (3, -4, 1), (2, -3, 2), (3, -7, 2)])
def test_bit_planes_give_back_every_level(bits: int, low: int, step: int) -> None:
    levels = (low + step * np.random.default_rng(0).integers(0, 2**bits, (5, 7))).astype(np.int8)
    levels.reshape(-1)[: 2**bits] = low + step * np.arange(2**bits)
    assert np.array_equal(computed(unpack_planes("w", levels, bits)), levels)


def test_four_bits_give_back_every_level() -> None:
    levels = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    assert np.array_equal(computed(unpack_four_bits("w", levels)), levels)


def computed(nodes: list[ir.Node]) -> np.ndarray:
    """Output of the last node, from the constants of all."""
    stored = {
        id(item): item for node in nodes for item in node.inputs if item is not None and item.const_value
    }
    output = nodes[-1].outputs[0]
    output.name, output.type = "y", ir.TensorType(ir.DataType.INT8)
    graph = ir.Graph([], [output], nodes=nodes, initializers=list(stored.values()), opset_imports={"": 21})
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10))
    return onnx.reference.ReferenceEvaluator(model).run(None, {})[0]


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    with pytest.raises(UserError, match=r"x\.onnx: the folder .*absent must exist"):
        write_atomically(model, tmp_path / "absent" / "x.onnx")
