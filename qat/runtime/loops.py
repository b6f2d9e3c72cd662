"""Loops over time inside a graph: a GRU's recurrence as a Scan, whose products stay on integers.

ONNX's own GRU computes in float, and PyTorch's exporter takes no operators of others inside of a loop. So the exporter
sees one node, which this file writes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from qat.runtime.operators import GRU_LOOP, LOOPS


class Body:
    """The graph of one step, while it is written.

    Args:
        name: that its nodes and values begin with.
    """

    def __init__(self, name: str) -> None:
        self.name, self.nodes = name, list[ir.Node]()

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: int = 1,
        domain: str = "",
        **fields: Any,
    ) -> list[ir.Value]:
        """The outputs of a new node."""
        name = f"{self.name}/{op_type}_{len(self.nodes)}"
        node = ir.node(op_type, inputs, fields, domain=domain, num_outputs=outputs, name=name)
        self.nodes.append(node)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}:{index}"
        return list(node.outputs)

    def one(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **fields: Any) -> ir.Value:
        """The only output of a new node."""
        return self.add(op_type, inputs, domain=domain, **fields)[0]

    def constant(self, array: Any) -> ir.Value:
        """A stored array."""
        return self.one("Constant", value=ir.tensor(array))


def constant(name: str, array: Any) -> ir.Value:
    """A stored tensor."""
    tensor = ir.tensor(array)
    shape = ir.Shape(array.shape)
    return ir.Value(name=name, const_value=tensor, shape=shape, type=ir.TensorType(tensor.dtype))


def stored(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    """A constant of the graph; the one of that name where it is there."""
    if name not in graph.initializers:
        graph.initializers.add(constant(name, np.asarray(array)))
    return graph.initializers[name]


def expand_loops_(model: ir.Model) -> int:
    """Write out all loops of a graph, in place; their number."""
    found = [node for node in model.graph if (node.domain, node.op_type) == (LOOPS, GRU_LOOP)]
    for node in found:
        sums, first, *_ = node.inputs
        body = gru_body(node)
        attributes: dict[str, Any] = {"body": body, "num_scan_inputs": 1}
        name = str(node.name).replace(GRU_LOOP, "Scan")
        scan = ir.node("Scan", [first, sums], attributes, num_outputs=2, name=name)
        for index, value in enumerate(scan.outputs):
            value.name = f"{name}:{index}"
        scan.outputs[1].shape, scan.outputs[1].type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [scan], [node.outputs[0]], [scan.outputs[1]]
        )
    model.graph.opset_imports.pop(LOOPS, None)
    return len(found)


def gru_body(node: ir.Node) -> ir.Graph:
    """One step of a GRU: hidden state `(B, H)` and sums `(B, 3H)` -> next hidden state, twice."""
    body = Body(str(node.name).rpartition("/")[0])
    weight = node.inputs[2]
    assert weight is not None and weight.shape is not None
    size = weight.shape[0]
    assert isinstance(size, int)
    kind = ir.TensorType(ir.DataType.FLOAT)
    shapes = (ir.Shape([None, size]), ir.Shape([None, 3 * size]))
    hidden, sums = (
        ir.Value(name=f"{body.name}/{name}", shape=shape, type=kind)
        for name, shape in zip(("hidden", "sums"), shapes, strict=True)
    )
    recurrent = recurrent_sums(body, node, hidden)
    sizes = body.constant(np.array([2 * size, size], np.int64))
    gates, new = body.add("Split", [sums, sizes], 2, axis=-1)
    gates_by, new_by = body.add("Split", [recurrent, sizes], 2, axis=-1)
    both = body.one("Sigmoid", body.one("Add", gates, gates_by))
    reset, update = body.add("Split", [both], 2, axis=-1, num_outputs=2)
    new = body.one("Tanh", body.one("Add", new, body.one("Mul", reset, new_by)))
    following = body.one("Add", new, body.one("Mul", update, body.one("Sub", hidden, new)))
    outputs = [following, body.one("Identity", following)]
    for value in outputs:
        value.shape, value.type = shapes[0], kind
    return ir.Graph([hidden, sums], outputs, nodes=body.nodes, name=f"{body.name}/step")


def recurrent_sums(body: Body, node: ir.Node, hidden: ir.Value) -> ir.Value:
    """The product of the hidden state: on integers, in float on a rounded state, or in float."""
    _, _, weight, bias, *ranges = node.inputs
    low, high = (node.attributes[name].as_int() for name in ("low", "high"))
    if len(ranges) == 3:
        scale, zero_point, weight_scale = ranges
        levels = body.one("QuantizeLinear", hidden, scale, zero_point)
        if (low, high) != (0, 255):
            levels = body.one(
                "Clip", levels, *(body.constant(np.array(end, np.uint8)) for end in (low, high))
            )
        inputs = (levels, weight, scale, weight_scale, zero_point, None, bias)
        return body.one("MatMulIntegerToFloat", *inputs, domain="com.microsoft")
    if ranges:  # between QuantizeLinear nodes ONNX Runtime would quantize the float weights too
        scale, zero_point = ranges
        whole = body.one("Round", body.one("Div", hidden, scale))
        ends = (body.constant(np.array(end, np.float32)) for end in (low, high))
        offset = body.one("Cast", zero_point, to=ir.DataType.FLOAT.value)
        levels = body.one("Clip", body.one("Add", whole, offset), *ends)
        hidden = body.one("Mul", body.one("Sub", levels, offset), scale)
    product = body.one("MatMul", hidden, weight)
    return product if bias is None else body.one("Add", product, bias)
