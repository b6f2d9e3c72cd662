from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qat.evaluation.guards import (
    GuardError,
    Measured,
    check_float_compute,
    check_integer_nodes,
    check_logits_differ,
    check_no_leak,
    check_recipes_take_effect,
    check_rows_differ,
    float_compute_weights,
    initializers_sha256,
)
from qat.report.row import Row


def write_graph(path: Path, head: np.ndarray, encoder_scale: float = 0.1) -> Path:
    """A graph with an integer matrix product, then a float one with `head`."""
    constants = {
        "encoder.weight": np.ones((4, 4), np.int8),
        "encoder.scale": np.array(encoder_scale, np.float32),
        "zero": np.array(0, np.int8),
        "head.weight": head.astype(np.float32),
        "head.bias": np.zeros(head.shape[1], np.float32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "encoder.weight"], ["a"], "encode"),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "encoder.scale"], ["c"], "rescale"),
        helper.make_node("MatMul", ["c", "head.weight"], ["d"], "project"),
        helper.make_node("Add", ["d", "head.bias"], ["y"], "shift"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT8, ["T", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", head.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph), str(path))
    return path


def test_equal_logits_are_caught() -> None:
    logits = [np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) for _ in range(2)]
    with pytest.raises(GuardError, match="equal the float ones bit for bit on all 2 utterances"):
        check_logits_differ(logits, [item.copy() for item in logits])
    changed = [logits[0], np.nextafter(logits[1], np.float32(9))]
    check_logits_differ(logits, changed)
    with pytest.raises(GuardError, match="no logits to compare"):
        check_logits_differ([], [])


def test_recipes_without_effect_are_caught() -> None:
    eight = Measured("a.onnx", "CRDNN", "h", {"weight_bits": 8, "preset": "x", "seed": 0})
    four = Measured("b.onnx", "CRDNN", "h", {"weight_bits": 4, "preset": "y", "seed": 1})
    with pytest.raises(
        GuardError, match="a.onnx and b.onnx hold the same weights although `weight_bits` is 8"
    ):
        check_recipes_take_effect([eight, four])
    check_recipes_take_effect([eight, Measured("b.onnx", "CRDNN", "other", four.recipe)])
    check_recipes_take_effect([eight, Measured("b.onnx", "Wav2Vec2", "h", four.recipe)])
    check_recipes_take_effect(
        [eight, Measured("b.onnx", "CRDNN", "h", eight.recipe | {"preset": "y", "seed": 1})]
    )


def test_rows_with_other_bits_and_the_same_checkpoint_are_caught(row: Row, float_row: Row) -> None:
    with pytest.raises(GuardError, match=r"demo \(deterministic, test_seen\) and demo .* same weights"):
        check_rows_differ([row, row | {"weight_bits": 4}])
    check_rows_differ([row, row | {"split": "test_real"}])
    check_rows_differ([row, row | {"weight_bits": 4, "checkpoint_sha256": "e" * 64}])
    check_rows_differ([row, float_row | {"checkpoint_sha256": row["checkpoint_sha256"]}])


def test_hash_sees_weights_scales_and_nothing_else(tmp_path: Path) -> None:
    base = initializers_sha256(write_graph(tmp_path / "a.onnx", np.eye(4)))
    assert base == initializers_sha256(write_graph(tmp_path / "b.onnx", np.eye(4)))
    assert base != initializers_sha256(write_graph(tmp_path / "c.onnx", 2 * np.eye(4)))
    assert base != initializers_sha256(write_graph(tmp_path / "d.onnx", np.eye(4), encoder_scale=0.2))


def test_integer_row_without_integer_nodes_is_caught(row: Row, float_row: Row) -> None:
    check_integer_nodes(row)
    check_integer_nodes(float_row)
    for count in (0, None):
        with pytest.raises(GuardError, match="holds 0 integer nodes: it computes in float"):
            check_integer_nodes(row | {"integer_nodes": count})


def test_float_weights_in_the_integer_graph_are_caught(tmp_path: Path) -> None:
    found = float_compute_weights(write_graph(tmp_path / "a.onnx", np.eye(4)))
    assert found == {"project": "head.weight"}
    with pytest.raises(GuardError, match="node 'project' computes in float with weight 'head.weight'"):
        check_float_compute(found, ["encoder"])
    for excluded in (["head"], ["head.*"], ["project"], ["encoder", "*weight"]):
        check_float_compute(found, excluded)


def test_a_layer_name_does_not_excuse_its_namesake() -> None:
    with pytest.raises(GuardError, match="head2.weight"):
        check_float_compute({"n": "head2.weight"}, ["head"])


def test_calibration_on_test_data_is_caught() -> None:
    check_no_leak(["a", "b"], ["c"])
    with pytest.raises(GuardError, match="test_seen: calibration saw 1 of its utterances, among them 'b'"):
        check_no_leak(["a", "b"], ["b", "c"], "test_seen")


def test_a_layer_name_covers_its_nodes_and_no_other_layers() -> None:
    check_float_compute({"net.conv/Conv": "Conv"}, ["net.conv"])
    with pytest.raises(GuardError, match="net.conv2/Conv"):
        check_float_compute({"net.conv2/Conv": "Conv"}, ["net.conv"])
