"""Attention and norms in the forms that ONNX Runtime computes fastest.

A branch of the graph is taken where nothing is padded, which is always so for one utterance: ONNX Runtime's fused
attention is a sixth faster without a mask, and statistics over all frames are one node.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from qat.layers.masked_norm import ROWS, MaskedGroupNorm
from qat.runtime.layers import replace_modules_
from qat.runtime.layouts import arrange_
from qat.runtime.loops import Body, stored
from qat.runtime.operators import LOOPS
from qat.runtime.self_attention import (
    ATTENTION,
    INTEGER_ATTENTION,
    MICROSOFT,
    attention_branch,
    fuse_attention_,
    integer_attention_branch,
)

GROUP_NORM = "MaskedGroupNorm"  # what stands for a branch until the graph is written


def fuse_(model: nn.Module) -> None:
    """Prepare a model whose layers are in exported form."""
    fuse_attention_(model)
    arrange_(model)
    replace_modules_(
        model, lambda layer: ExportedGroupNorm.of(layer) if isinstance(layer, MaskedGroupNorm) else layer
    )


class ExportedGroupNorm(MaskedGroupNorm):
    """What stands for a `MaskedGroupNorm`."""

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """See `MaskedGroupNorm`."""
        assert frames is not None
        inputs = (x, frames, frames.min() >= x.shape[2], self.weight, self.bias)
        return symbolic(
            f"{LOOPS}::{GROUP_NORM}", inputs, {"eps": self.eps}, dtype=torch.float32, shape=x.shape, version=1
        )


def group_norm_branch(body: Body, node: ir.Node, whole: bool) -> ir.Value:
    """`InstanceNormalization`, or `MaskedGroupNorm.forward` node by node."""
    x, frames, _, weight, bias = node.inputs
    eps = node.attributes["eps"].as_float()
    if whole:
        return body.one("InstanceNormalization", x, weight, bias, epsilon=eps)
    kind = ir.DataType.FLOAT.value
    axis, last = (body.constant(np.array(axes, np.int64)) for axes in ([1], [1, 2]))
    total = body.one("Squeeze", body.one("Shape", x, start=2, end=3))
    ends = (body.constant(np.array(end, np.int64)) for end in (0, 1))
    index = body.one("Range", next(ends), total, next(ends))
    lengths = body.one("Unsqueeze", frames, last)
    valid = body.one("Cast", body.one("Less", index, lengths), to=kind)
    numbers = body.constant(np.arange(ROWS, dtype=np.int64)[:, None])
    row = body.one("Equal", body.one("Mod", index, body.constant(np.array(ROWS, np.int64))), numbers)
    by_time, count = body.one("Transpose", x, perm=[0, 2, 1]), body.one("Cast", lengths, to=kind)

    def mean_of(factors: ir.Value, values: ir.Value) -> ir.Value:
        total = body.one("ReduceSum", body.one("MatMul", factors, values), axis, keepdims=1)
        return body.one("Div", body.one("Transpose", total, perm=[0, 2, 1]), count)

    mean = mean_of(valid, by_time)
    rows = body.one("Mul", valid, body.one("Cast", row, to=kind))
    square = mean_of(rows, body.one("Mul", by_time, by_time))
    variance = body.one("Sub", square, body.one("Mul", mean, mean))
    variance = body.one("Max", variance, body.constant(np.array(0, np.float32)))
    root = body.one("Sqrt", body.one("Add", variance, body.constant(np.array(eps, np.float32))))
    scale = body.one("Div", body.one("Unsqueeze", weight, axis), root)
    shift = body.one("Sub", body.one("Unsqueeze", bias, axis), body.one("Mul", mean, scale))
    return body.one("Add", body.one("Mul", x, scale), shift)


BRANCHES: dict[str, tuple[Callable[[Body, ir.Node, bool], ir.Value], int]] = {
    ATTENTION: (attention_branch, 4),
    INTEGER_ATTENTION: (integer_attention_branch, 4),
    GROUP_NORM: (group_norm_branch, 2),
}  # operator -> what writes a branch of it, and the place of the input that says whether nothing is padded


def expand_branches_(model: ir.Model) -> int:
    """Write out all branches of a graph, in place; their number."""
    found = [node for node in model.graph if node.domain == LOOPS and node.op_type in BRANCHES]
    for node in found:
        write, place = BRANCHES[node.op_type]
        if node.op_type == GROUP_NORM:
            keep_apart_(model, node)
        stem = str(node.name).rpartition("/")[0]
        graphs = {}
        for name, whole in (("then_branch", True), ("else_branch", False)):
            body = Body(f"{stem}/{'whole' if whole else 'padded'}")
            out = write(body, node, whole)
            out.shape, out.type = node.outputs[0].shape, node.outputs[0].type
            graphs[name] = ir.Graph([], [out], nodes=body.nodes, name=body.name)
        name = str(node.name).replace(node.op_type, "If")
        branch = ir.node("If", [node.inputs[place]], graphs, name=name)
        branch.outputs[0].name = f"{name}:0"
        branch.outputs[0].shape, branch.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [branch], [node.outputs[0]], [branch.outputs[0]]
        )
    if found:
        model.opset_imports.setdefault(MICROSOFT, 1)
        drop_idle_reshapes_(model)
    return len(found)


def keep_apart_(model: ir.Model, node: ir.Node) -> None:
    """Put a Reshape that changes nothing between a float convolution and the branch of its norm.

    ONNX Runtime 1.22 looks for an activation after each float convolution, and ends the process where it finds a
    branch. (After DequantizeLinear it is the Reshape that 1.32 cannot bear.)
    """
    x = node.inputs[0]
    assert x is not None and x.shape is not None
    maker = x.producer()
    if maker is None or maker.op_type != "Conv":
        return
    shape = stored(model.graph, f"{node.name}.shape", np.array([0, x.shape[1], -1], np.int64))
    same = ir.node("Reshape", [x, shape], name=f"{node.name}/Reshape")
    same.outputs[0].name, same.outputs[0].type = f"{node.name}/Reshape:0", x.type
    model.graph.insert_before(node, same)
    node.replace_input_with(0, same.outputs[0])


def drop_idle_reshapes_(model: ir.Model) -> None:
    """Take out each Reshape to the shape that is there already, and what nobody reads any more.

    ONNX Runtime keeps both: it does not know the lengths of free axes, nor does it ask who reads a node.
    """
    for node in list(model.graph):
        x, y = (node.inputs[0], node.outputs[0]) if node.op_type == "Reshape" else (None, node.outputs[0])
        if x is not None and is_known(x.shape) and x.shape == y.shape and not y.is_graph_output():
            y.replace_all_uses_with(x)
    RemoveUnusedNodesPass()(model)


def keep_norms_apart_(model: ir.Model) -> int:
    """Write additions in front of a LayerNorm as `Sum`; their number.

    ONNX Runtime fuses `Add` and `LayerNormalization` to `SkipLayerNormalization`, which takes six times as long.
    """
    count = 0
    for node in model.graph:
        if node.op_type == "LayerNormalization":
            before = node.inputs[0].producer() if node.inputs[0] is not None else None
            if before is not None and before.op_type == "Add":
                before.op_type = "Sum"
                count += 1
    return count


def is_known(shape: ir.Shape | None) -> bool:
    """Whether each axis has a length or a name."""
    return shape is not None and all(isinstance(dim, int) or dim.value is not None for dim in shape)
