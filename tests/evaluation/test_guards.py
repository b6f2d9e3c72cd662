"""Every guard fails the run on its planted fault, and lets the rest pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from datamodules.utterance import Utterance
from qat.evaluation.guards import (
    GuardError,
    IntegerFile,
    check_bits_differ,
    check_float_compute,
    check_integer_nodes,
    check_logits_differ,
    check_no_leak,
    check_recipes_take_effect,
    float_compute_weights,
    initializers_sha256,
)
from qat.evaluation.measurement import Nodes
from qat.runtime.graph import optimised_graph
from tests.datamodules.corpora import sine, write_audio
from tests.evaluation.measurements import float_measurement, integer_measurement
from tests.runtime.conftest import Exported


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
    eight = IntegerFile("a.onnx", "CRDNN", "h", {"weight_bits": 8, "preset": "x", "seed": 0})
    four = IntegerFile("b.onnx", "CRDNN", "h", {"weight_bits": 4, "preset": "y", "seed": 1})
    with pytest.raises(
        GuardError, match="a.onnx and b.onnx hold the same weights although `weight_bits` is 8"
    ):
        check_recipes_take_effect([eight, four])
    check_recipes_take_effect([eight, IntegerFile("b.onnx", "CRDNN", "other", four.recipe)])
    check_recipes_take_effect([eight, IntegerFile("b.onnx", "Wav2Vec2", "h", four.recipe)])
    check_recipes_take_effect(
        [eight, IntegerFile("b.onnx", "CRDNN", "h", eight.recipe | {"preset": "y", "seed": 1})]
    )


def test_other_bits_from_the_same_checkpoint_are_caught() -> None:
    eight, twin = integer_measurement(), integer_measurement(name="ptq", method="ptq")
    four = integer_measurement(name="ptq", method="ptq", weight_bits=4)
    with pytest.raises(GuardError, match=r"model \(deterministic\) and ptq \(ptq\) .* same weights"):
        check_bits_differ([eight, four])
    check_bits_differ([eight, twin])
    check_bits_differ([eight, integer_measurement(weight_bits=4, checkpoint_sha256="f" * 64)])
    check_bits_differ([eight, float_measurement(checkpoint_sha256=eight.checkpoint_sha256)])


def test_hash_sees_weights_scales_and_nothing_else(tmp_path: Path) -> None:
    base = initializers_sha256(write_graph(tmp_path / "a.onnx", np.eye(4)))
    assert base == initializers_sha256(write_graph(tmp_path / "b.onnx", np.eye(4)))
    assert base != initializers_sha256(write_graph(tmp_path / "c.onnx", 2 * np.eye(4)))
    assert base != initializers_sha256(write_graph(tmp_path / "d.onnx", np.eye(4), encoder_scale=0.2))


def test_an_integer_model_without_integer_nodes_is_caught() -> None:
    check_integer_nodes(integer_measurement())
    check_integer_nodes(float_measurement())
    with pytest.raises(GuardError, match="holds 0 integer nodes: it computes in float"):
        check_integer_nodes(integer_measurement(nodes=Nodes({}, {"rnn/LSTM": "LSTM"}, {})))
    check_integer_nodes(integer_measurement(nodes=Nodes({}, {}, {}), without_integers="provider cuda"))


def test_float_weights_in_the_integer_graph_are_caught(tmp_path: Path) -> None:
    found = float_compute_weights(onnx.load(str(write_graph(tmp_path / "a.onnx", np.eye(4)))))
    assert found == {"project": "head.weight"}
    with pytest.raises(GuardError, match="node 'project' computes in float with weight 'head.weight'"):
        check_float_compute(found, ["encoder"])
    for excluded in (["head"], ["head.*"], ["project"], ["encoder", "*weight"]):
        check_float_compute(found, excluded)


def test_planted_fault_a_float_layer_in_an_integer_file_is_named_with_its_weight(crdnn: Exported) -> None:
    """The float file in place of the integer one: the sentence names node and weight, not the operator."""
    assert crdnn.float is not None
    check_float_compute(float_compute_weights(optimised_graph(crdnn.integer.path)), [], "model.onnx")
    found = float_compute_weights(optimised_graph(crdnn.float.path))
    recurrent = {node: weight for node, weight in found.items() if "LSTM" in node}
    with pytest.raises(GuardError) as caught:
        check_float_compute(recurrent, ["head"], "model.onnx")
    assert str(caught.value) == (
        "model.onnx: node 'crdnn.RNN.rnn.layers.0/LSTM' computes in float with weight "
        "'crdnn.RNN.rnn.layers.0.weight.weight', which the recipe does not exclude"
    )
    check_float_compute(found, ["crdnn.*", "head"], "model.onnx")


def test_a_layer_name_does_not_excuse_its_namesake() -> None:
    with pytest.raises(GuardError, match="head2.weight"):
        check_float_compute({"n": "head2.weight"}, ["head"])


def test_calibration_on_test_data_is_caught_whatever_its_ids(tmp_path: Path) -> None:
    pitch = {"a": 200.0, "b": 300.0, "c": 400.0, "copy": 300.0}
    audio = {name: write_audio(tmp_path / f"{name}.wav", sine(0.5, pitch[name])) for name in pitch}

    def utterances(**names: str) -> list[Utterance]:
        return [Utterance(name, audio[file], "one", 0.5) for name, file in names.items()]

    check_no_leak(utterances(a="a", b="b"), utterances(a="c", c="c"))
    for file in ("b", "copy"):
        with pytest.raises(
            GuardError, match="test_seen: calibration saw 1 of its utterances, among them 'x'"
        ):
            check_no_leak(utterances(a="a", b="b"), utterances(x=file, c="c"), "test_seen")


def test_a_layer_name_covers_its_nodes_and_no_other_layers() -> None:
    check_float_compute({"net.conv/Conv": "Conv"}, ["net.conv"])
    with pytest.raises(GuardError, match="net.conv2/Conv"):
        check_float_compute({"net.conv2/Conv": "Conv"}, ["net.conv"])
