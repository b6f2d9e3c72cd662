"""Attention and norms in the forms that ONNX Runtime computes fastest.

A branch of the graph is taken where nothing is padded, which is always so for one utterance: ONNX Runtime's fused
attention is a sixth faster without a mask, and statistics over all frames are one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from qat.layers.masked_norm import MaskedGroupNorm, turns
from qat.layers.masking import frame_mask, to_device_of
from qat.runtime.loops import Body
from qat.runtime.operators import LOOPS

ATTENTION, GROUP_NORM = (
    "SelfAttention",
    "MaskedGroupNorm",
)  # what stands for a branch until the graph is written
IMPLEMENTATION = "speech_qat_export"  # of attention, as Transformers knows it
MICROSOFT = "com.microsoft"


def fuse_(model: nn.Module) -> None:
    """Prepare a model whose layers are in exported form."""
    fuse_attention_(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, MaskedGroupNorm):
                setattr(parent, name, ExportedGroupNorm.of(child))


def fuse_attention_(model: nn.Module) -> None:
    """Let every attention of Transformers below `model` be exported as one node."""
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    found = {id(config): config for config in configs if hasattr(config, "_attn_implementation")}
    if not found:
        return
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, fused_attention)
    for config in found.values():
        config._attn_implementation = IMPLEMENTATION


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """What Transformers calls in place of `F.scaled_dot_product_attention`, while a model is exported.

    Args:
        module: the attention.
        query: `(B, N, T, D)`.
        key: likewise.
        value: likewise.
        attention_mask: `(B, 1, 1, T)`: 0 where a frame is valid, large and negative where it is padding.
        scaling: of the products.

    Returns:
        `(B, T, N, D)`, and no weights.
    """
    heads, size = query.shape[1], query.shape[3]
    inputs = [x.transpose(1, 2).flatten(2) for x in (query, key, value)]
    whole = attention_mask.min() >= 0
    out = symbolic(
        f"{LOOPS}::{ATTENTION}",
        (*inputs, attention_mask, whole),
        {"num_heads": heads, "scale": scaling},
        dtype=torch.float32,
        shape=inputs[0].shape,
        version=1,
    )
    return out.unflatten(2, (heads, size)), None


class ExportedGroupNorm(MaskedGroupNorm):
    """What stands for a `MaskedGroupNorm`."""

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """See `MaskedGroupNorm`."""
        assert frames is not None
        valid = frame_mask(frames, x, axis=2).unsqueeze(1).float()
        count = to_device_of(x, frames).float()[:, None, None]
        whole = frames.min() >= x.shape[2]
        inputs = (x, valid, turns(x).float(), count, whole, self.weight, self.bias)
        return symbolic(
            f"{LOOPS}::{GROUP_NORM}", inputs, {"eps": self.eps}, dtype=torch.float32, shape=x.shape, version=1
        )


def attention_branch(body: Body, node: ir.Node, whole: bool) -> ir.Value:
    """`MultiHeadAttention`, with the mask where something is padded."""
    query, key, value, mask, _ = node.inputs
    fields = {
        "num_heads": node.attributes["num_heads"].as_int(),
        "scale": node.attributes["scale"].as_float(),
    }
    inputs = [query, key, value]
    if not whole:
        frames = body.one("Shape", query, start=1, end=2)
        ones = body.constant(np.array([1, 1], np.int64))
        one = body.constant(np.array([1], np.int64))
        shape = body.one("Concat", ones, frames, one, axis=0)
        inputs += [None, None, body.one("Expand", mask, shape)]
    return body.one("MultiHeadAttention", *inputs, domain=MICROSOFT, **fields)


def group_norm_branch(body: Body, node: ir.Node, whole: bool) -> ir.Value:
    """`InstanceNormalization`, or `MaskedGroupNorm.forward` node by node."""
    x, valid, rows, count, _, weight, bias = node.inputs
    eps = node.attributes["eps"].as_float()
    if whole:
        return body.one("InstanceNormalization", x, weight, bias, epsilon=eps)
    axis = body.constant(np.array([1], np.int64))
    by_time = body.one("Transpose", x, perm=[0, 2, 1])

    def mean_of(factors: ir.Value | None, values: ir.Value) -> ir.Value:
        total = body.one("ReduceSum", body.one("MatMul", factors, values), axis, keepdims=1)
        return body.one("Div", body.one("Transpose", total, perm=[0, 2, 1]), count)

    mean = mean_of(valid, by_time)
    square = mean_of(body.one("Mul", valid, rows), body.one("Mul", by_time, by_time))
    variance = body.one("Sub", square, body.one("Mul", mean, mean))
    variance = body.one("Max", variance, body.constant(np.array(0, np.float32)))
    root = body.one("Sqrt", body.one("Add", variance, body.constant(np.array(eps, np.float32))))
    scale = body.one("Div", body.one("Unsqueeze", weight, axis), root)
    shift = body.one("Sub", body.one("Unsqueeze", bias, axis), body.one("Mul", mean, scale))
    return body.one("Add", body.one("Mul", x, scale), shift)


BRANCHES: dict[str, tuple[Callable[[Body, ir.Node, bool], ir.Value], int]] = {
    ATTENTION: (attention_branch, 4),
    GROUP_NORM: (group_norm_branch, 4),
}  # operator -> what writes a branch of it, and the place of the input that says whether nothing is padded


def expand_branches_(model: ir.Model) -> int:
    """Write out all branches of a graph, in place; their number."""
    found = [node for node in model.graph if node.domain == LOOPS and node.op_type in BRANCHES]
    for node in found:
        write, place = BRANCHES[node.op_type]
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
    model.graph.opset_imports.pop(LOOPS, None)
    return len(found)


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
