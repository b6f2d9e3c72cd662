"""The attention of a decoder step, as a graph computes it: hypothesis by hypothesis, so that tensors stay in cache.

Over all hypotheses at once, the sums below tanh are `(N, T, A)`: 80 MB at the published size and a beam of 80, which
each operator would read and write anew. A Scan takes one hypothesis at a time: one matrix product adds keys, query and
location features (the query is one more row of the location's weight, against a column of ones), then tanh, then the
energies. Its results are also the same whatever stands beside a hypothesis in the beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.onnx.ops import symbolic

DOMAIN, ENERGY = "speech_qat", "LocationEnergy"
LOCATION, ENERGIES = "decoder.attn.mlp_loc", "decoder.attn.mlp_attn"  # layers that the nodes stand for


def location_energy(
    query: Tensor, features: Tensor, keys: Tensor, location: Tensor, energy: Tensor
) -> Tensor:
    """`tanh(keys + query + features location) energy`: a placeholder, which `expand_energies_` makes a Scan of.

    Args:
        query: `(N, A)`.
        features: of the attention before `(N, T, C)`.
        keys: `(T, A)`.
        location: weight `(C, A)`.
        energy: weight `(1, A)`.

    Returns:
        float32 `(N, T)`.
    """
    ones = torch.ones(features.shape[0], features.shape[1], 1)
    inputs = (query, torch.cat([features, ones], dim=2), keys, location, energy)
    shape = (features.shape[0], features.shape[1])
    return symbolic(f"{DOMAIN}::{ENERGY}", inputs, dtype=torch.float32, shape=shape, version=1)


def expand_energies_(model: ir.Model, portable: bool = False) -> None:
    """Put what computes it in the place of each placeholder of `location_energy`.

    Args:
        model: a decoder step.
        portable: without a Scan, whose body reads values from outside: OpenVINO knows none.
    """
    for node in list(model.graph):
        if (node.domain, node.op_type) == (DOMAIN, ENERGY):
            nodes = at_once(node.inputs) if portable else hypothesis_by_hypothesis(node.inputs)
            made, old = nodes[-1].outputs[0], node.outputs[0]
            made.name, made.shape, made.type = old.name, old.shape, old.type
            model.graph.insert_before(node, nodes)
            old.replace_all_uses_with(made, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
    model.opset_imports.pop(DOMAIN, None)


def hypothesis_by_hypothesis(inputs: Sequence[ir.Value | None]) -> list[ir.Node]:
    """A Scan over the inputs of a placeholder."""
    query, features, *shared = inputs
    assert query is not None and features is not None
    body: dict[str, Any] = {"body": one_hypothesis(shared), "num_scan_inputs": 2}
    return [ir.node("Scan", [query, features], attributes=body, name=f"{ENERGIES}/Scan")]


def at_once(inputs: Sequence[ir.Value | None]) -> list[ir.Node]:
    """The same over all hypotheses at once, whose sums below tanh lie in memory `(N, T, A)`."""
    query, features, keys, location, energy = inputs
    nodes: list[ir.Node] = []

    def add(
        op_type: str, inputs: Sequence[ir.Value | None], layer: str = ENERGIES, **attributes: Any
    ) -> ir.Value:
        name = f"{layer}/{ENERGY}_{len(nodes)}"
        nodes.append(ir.node(op_type, list(inputs), attributes=attributes, name=name))
        nodes[-1].outputs[0].name = f"{name}:0"
        return nodes[-1].outputs[0]

    def axis(number: int) -> ir.Value:
        return add("Constant", [], value=ir.tensor([number]))

    plain = add("Slice", [features, axis(0), axis(-1), axis(2)])  # without the ones for the query's row
    near = add("MatMul", [plain, location], LOCATION)
    row = add("Unsqueeze", [query, axis(1)])
    sums = add("Add", [add("Add", [near, row]), keys])
    column = add("Transpose", [energy], perm=[1, 0])
    product = add("MatMul", [add("Tanh", [sums]), column])
    add("Squeeze", [product, axis(2)])
    return nodes


def one_hypothesis(shared: Sequence[ir.Value | None]) -> ir.Graph:
    """Query `(A,)` and features `(T, C + 1)` of one hypothesis -> energies `(T,)`.

    Args:
        shared: keys, location weight and energy weight, which stay where they are, outside.
    """
    keys, location, energy = shared
    assert keys is not None and location is not None and energy is not None
    width = None if energy.shape is None else energy.shape[1]
    query = float_value("query", (width,))
    features = float_value("features", (None, None))
    axis = ir.Value(name="first", const_value=ir.tensor([0], name="first"))
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: Sequence[Any], name: str, **attributes: Any) -> ir.Value:
        nodes.append(ir.node(op_type, inputs, attributes=attributes, name=name))
        nodes[-1].outputs[0].name = f"{name}:0"
        return nodes[-1].outputs[0]

    row = add("Unsqueeze", [query, axis], f"{LOCATION}/Unsqueeze")
    weight = add("Concat", [location, row], f"{LOCATION}/Concat", axis=0)
    sums = add("Gemm", [features, weight, keys], f"{LOCATION}/Gemm")
    bent = add("Tanh", [sums], "decoder.attn/Tanh")
    # one row times a transposed matrix: three times faster than a matrix times one column
    product = add("Gemm", [energy, bent], f"{ENERGIES}/Gemm", transB=1)
    energies = add("Squeeze", [product, axis], f"{ENERGIES}/Squeeze")
    energies.type, energies.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None])
    return ir.Graph([query, features], [energies], nodes=nodes, initializers=[axis], name="hypothesis")


def float_value(name: str, shape: Sequence[Any]) -> ir.Value:
    """A float32 value of that shape."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
