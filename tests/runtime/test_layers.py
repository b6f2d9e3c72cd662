"""Every layer class: the file's arithmetic equals the fake-quantized module's, on integers, from int8 weights."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto

from qat.layers.activation import ActivationQuantizer
from qat.runtime.graph import INTEGER
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
    matrices = [item for item in weights_below(zoo.stored, name).values() if len(item.dims) >= 2]
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
