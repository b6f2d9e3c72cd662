"""Grouped convolutions in fewer, wider groups, where that is faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qat.runtime.loops import constant

WIDEST = (
    48  # output channels of a merged group: measured, up to here the products saved outweigh those with zeros
)


def merged(groups: int, outputs: int) -> int:
    """How many neighbouring groups become one.

    Args:
        groups: of the convolution.
        outputs: channels of each.

    >>> merged(16, 9), merged(16, 32), merged(3, 8)
    (4, 1, 1)
    """
    count = 1
    while groups % (2 * count) == 0 and outputs * 2 * count <= WIDEST:
        count *= 2
    return count


def merge_groups_(model: ir.Model) -> int:
    """Let each integer convolution of narrow groups run in wider ones; how many do.

    ONNX Runtime multiplies a matrix for each group, and few columns cost as much as many. The file keeps the weights of
    the narrow groups; nodes put zeros between them, once, when it is loaded. The sums are the same integers.
    """
    found = 0
    for node in list(model.graph):
        weight = node.inputs[3] if node.op_type == "QLinearConv" else None
        if weight is None or not weight.is_initializer() or weight.shape is None:
            continue
        groups, shape = node.attributes["group"].as_int(), weight.shape.numpy()
        count = merged(groups, shape[0] // groups)
        if groups > 1 and count > 1:
            nodes = widened(weight, shape, groups, count)
            for value in (value for item in nodes for value in item.inputs):
                if value is not None and value is not weight and value.const_value is not None:
                    model.graph.initializers.add(value)
            model.graph.insert_before(model.graph[0], nodes)
            node.replace_input_with(3, nodes[-1].outputs[0])
            node.attributes["group"] = ir.AttrInt64("group", groups // count)
            found += 1
    return found


def widened(weight: ir.Value, shape: tuple[int, ...], groups: int, count: int) -> list[ir.Node]:
    """Nodes from int8 `(O, I / groups, ...)` to `(O, count I / groups, ...)`, zero outside the group's own channels."""
    outputs, inputs, *kernel = shape
    wide = (groups // count, count, outputs // groups, 1, inputs, *kernel)
    own = np.eye(count, dtype=np.int32).reshape(1, count, 1, count, 1, *[1] * len(kernel))
    stem = f"{weight.name}.groups"

    def node(op_type: str, *values: ir.Value, **fields: Any) -> ir.Value:
        made.append(ir.node(op_type, list(values), fields, name=f"{weight.name}/Widen_{len(made)}"))
        made[-1].outputs[0].name = f"{weight.name}/Widen_{len(made)}:0"
        return made[-1].outputs[0]

    made: list[ir.Node] = []
    whole = node("Cast", weight, to=ir.DataType.INT32.value)  # few versions multiply or choose int8
    apart = node("Reshape", whole, constant(f"{stem}.apart", np.array(wide)))
    placed = node("Mul", apart, constant(f"{stem}.own", own))
    shape_of = constant(f"{stem}.shape", np.array((outputs, count * inputs, *kernel)))
    node("Cast", node("Reshape", placed, shape_of), to=ir.DataType.INT8.value)
    return made
