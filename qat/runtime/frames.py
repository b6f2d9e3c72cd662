"""Linear layers with a range for each row, written out: zero points are taken off within the integer product.

A row's sums are `q W - z (1 W)`. Beside a row's levels `q` stands its zero point `z`, some times over, and below the
weights stand rows that add up to `-(1 W)`: one integer product gives the difference, where ONNX Runtime would need two
more passes over the output in float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qat.runtime.loops import Body, stored
from qat.runtime.operators import FRAME_LINEAR, LOOPS

REDUCED = 64  # the largest level of weights whose products in pairs fit 16 bits
BLOCK = 8  # columns that are joined at once
ONE, ZERO = "frames.one", "frames.zero"  # names of stored scalars


def zero_point_rows(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """`(N, O)` below a weight `(I, O)`, so that each column adds up to zero, in levels as large as the weight's may be.

    >>> zero_point_rows(np.array([[100, -3], [90, 1]], np.int8)).tolist()
    [[-127, 2], [-63, 0]]
    """
    rest = -weight.sum(0, dtype=np.int64)
    largest = REDUCED - 1 if np.abs(weight.astype(np.int16)).max(initial=0) <= REDUCED else 127
    rows: list[NDArray[np.int64]] = []
    while rest.any() or not rows:
        rows.append(np.clip(rest, -largest, largest))
        rest = rest - rows[-1]
    return np.stack(rows).astype(np.int8)


def expand_frame_linear_(model: ir.Model) -> int:
    """Write out all such layers of a graph, in place; their number."""
    found = [node for node in model.graph if (node.domain, node.op_type) == (LOOPS, FRAME_LINEAR)]
    readers = dict[tuple[ir.Value | None, ...], list[ir.Node]]()  # of the same levels: query, key and value
    for node in found:
        readers.setdefault((node.inputs[0], node.inputs[2]), []).append(node)
    for nodes in readers.values():
        rows = [zero_point_rows(array_of(node.inputs[3])) for node in nodes]
        most, levels = max(map(len, rows)), None
        for node, below in zip(nodes, rows, strict=True):
            body = Body(str(node.name))
            levels = levels or with_columns(body, node, most)
            padded = np.concatenate([below, np.zeros((most - len(below), below.shape[1]), np.int8)])
            output = written(body, node, levels, padded, model.graph)
            output.shape, output.type = node.outputs[0].shape, node.outputs[0].type
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], body.nodes, [node.outputs[0]], [output]
            )
    if found:
        model.graph.opset_imports.setdefault("com.microsoft", 1)
    return len(found)


def array_of(value: ir.Value | None) -> NDArray[Any]:
    """A stored array."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def with_columns(body: Body, node: ir.Node, count: int) -> ir.Value:
    """The levels that a layer reads, and beside them their zero points, so many times.

    Joined from copies: repeating a column by Tile takes several times as long. Eight at once are copied faster than
    one by one.
    """
    x, _, zero_point = node.inputs[:3]
    assert x is not None
    column = body.one("Cast", zero_point, to=ir.DataType.UINT8.value)
    blocks, rest = divmod(count, BLOCK)
    block = [body.one("Concat", *[column] * BLOCK, axis=-1)] if blocks else []
    return body.one("Concat", *parts_of(x), *block * blocks, *[column] * rest, axis=-1)


def written(body: Body, node: ir.Node, levels: ir.Value, rows: NDArray[np.int8], graph: ir.Graph) -> ir.Value:
    """Nodes of one layer, and what they come to.

    Args:
        body: takes the nodes.
        node: of the layer.
        levels: uint8 `(..., I + N)`, the zero points at the end.
        rows: `(N, O)` below the weight.
        graph: that the node is of.
    """
    _, scale, _, weight, weight_scale, *rest = node.inputs
    assert weight is not None
    below = stored(graph, f"{weight.name}.zero_point", rows)
    matrix = body.one("Concat", weight, below, axis=0)  # once, when the file is loaded
    one, zero = stored(graph, ONE, np.float32(1)), stored(graph, ZERO, np.uint8(0))
    inputs = (levels, matrix, one, weight_scale, zero)
    sums = body.one("MatMulIntegerToFloat", *inputs, domain="com.microsoft")
    out = body.one("Mul", sums, scale)
    bias = rest[0] if rest else None
    return out if bias is None else body.one("Add", out, bias)


def parts_of(x: ir.Value) -> list[ir.Value]:
    """What `x` is joined from; `x` itself where it is not."""
    node = x.producer()
    if node is None or node.op_type != "Concat":
        return [x]
    return [item for item in node.inputs if item is not None]
