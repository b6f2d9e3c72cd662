"""The attention's Scan over hypotheses, or what stands for it in a portable file, computes what the plain sum does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from qat.runtime.attention_graph import expand_energies_, location_energy
from qat.runtime.export import trace
from qat.runtime.session import PROVIDER

WIDTH, CHANNELS = 6, 3


@pytest.fixture(scope="module", params=[False, True], ids=["scan", "portable"])
def graph(request: pytest.FixtureRequest) -> tuple[nn.Module, onnx.ModelProto]:
    """Weights, and the graph of the energies."""
    torch.manual_seed(0)
    module = nn.Module()
    module.location, module.energy = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, 1, bias=False)

    def run(part: Any, query: Tensor, features: Tensor, keys: Tensor) -> Tensor:
        return location_energy(query, features, keys, part.location.weight.t(), part.energy.weight)

    inputs = {
        "query": torch.zeros(4, WIDTH),
        "features": torch.zeros(4, 7, CHANNELS),
        "keys": torch.zeros(7, WIDTH),
    }
    axes = {"query": ("n",), "features": ("n", "t"), "keys": ("t",)}
    with torch.no_grad():
        model = trace(module, inputs, ["energies"], run, axes)
    expand_energies_(model, portable=request.param)
    return module, ir.to_proto(model)


@pytest.mark.parametrize(("rows", "frames"), [(1, 1), (1, 9), (5, 4), (80, 30)])
def test_energies_are_those_of_the_plain_sum(
    graph: tuple[Any, onnx.ModelProto], rows: int, frames: int
) -> None:
    module, model = graph
    query, keys = torch.randn(rows, WIDTH), torch.randn(frames, WIDTH)
    features = torch.randn(rows, frames, CHANNELS)
    with torch.no_grad():
        location = features @ module.location.weight.t()
        expected = module.energy(torch.tanh(keys + query[:, None] + location)).squeeze(-1)
    engine = ort.InferenceSession(model.SerializeToString(), providers=[PROVIDER])
    feed = {"query": query.numpy(), "features": features.numpy(), "keys": keys.numpy()}
    found = engine.run(None, feed)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    alone = engine.run(
        None, {"query": feed["query"][-1:], "features": feed["features"][-1:], "keys": feed["keys"]}
    )
    if any(node.op_type == "Scan" for node in model.graph.node):
        assert np.array_equal(alone[0][0], found[-1])
    else:
        np.testing.assert_allclose(alone[0][0], found[-1], atol=1e-6)  # sums in another order


def test_no_operator_of_our_own_is_left(graph: tuple[Any, onnx.ModelProto]) -> None:
    model = graph[1]
    assert {item.domain for item in model.opset_import} <= {"", "com.microsoft", "pkg.onnxscript.torch_lib"}
    kinds = [node.op_type for node in model.graph.node]
    assert ("Scan" in kinds) != ("Tanh" in kinds)
    onnx.checker.check_model(model)
