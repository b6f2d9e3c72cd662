"""Self-attention in a graph: one node of ONNX Runtime in float, or both of its products on integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from qat.layers.activation import AffineQuantizer
from qat.layers.attention import CHILD, QuantAttention, attend_by_
from qat.runtime.loops import Body
from qat.runtime.operators import LOOPS

ATTENTION, INTEGER_ATTENTION = (
    "SelfAttention",
    "IntegerSelfAttention",
)  # what stands for a branch until the graph is written
IMPLEMENTATION = "speech_qat_export"  # of attention, as Transformers knows it
MICROSOFT = "com.microsoft"
SIDES = ("query", "key", "value")


class IntegerAttention(nn.Module):
    """What stands for a `QuantAttention`.

    Attributes:
        ranges: of each side, its scale, zero point, smallest and largest level; and the largest level of a probability.
    """

    def __init__(self, products: QuantAttention) -> None:
        super().__init__()
        self.ranges: dict[str, list[float] | int] = {
            side: range_of(getattr(products, f"{side}_quantizer")) for side in SIDES
        }
        self.ranges["largest"] = products.probability_quantizer.quant_max


def range_of(quantizer: AffineQuantizer) -> list[float]:
    """Scale, zero point, smallest and largest level."""
    scale = float(quantizer.positive_scale().detach())
    return [scale, float(quantizer.zero_point), float(quantizer.quant_min), float(quantizer.quant_max)]


def fuse_attention_(model: nn.Module) -> None:
    """Let every attention of Transformers below `model` be exported as one node."""
    attend_by_(model, IMPLEMENTATION, fused_attention)


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
        `(B, T, N D)`, and no weights.
    """
    inputs = [x.transpose(1, 2).flatten(2) for x in (query, key, value)]
    whole = attention_mask.min() >= 0
    products = module._modules.get(CHILD)
    ranges = products.ranges if isinstance(products, IntegerAttention) else {}
    out = symbolic(
        f"{LOOPS}::{INTEGER_ATTENTION if ranges else ATTENTION}",
        (*inputs, attention_mask, whole),
        {"num_heads": query.shape[1], "scale": scaling, **ranges},
        dtype=torch.float32,
        shape=inputs[0].shape,
        version=1,
    )
    return out, None


def attention_branch(body: Body, node: ir.Node, whole: bool) -> ir.Value:
    """`MultiHeadAttention`, with the mask where something is padded."""
    query, key, value = (without_heads(x) for x in node.inputs[:3])
    mask = node.inputs[3]
    fields = {
        "num_heads": node.attributes["num_heads"].as_int(),
        "scale": node.attributes["scale"].as_float(),
    }
    inputs: list[ir.Value | None] = [query, key, value]
    if not whole:
        frames = body.one("Shape", query, start=1, end=2)
        ones = body.constant(np.array([1, 1], np.int64))
        one = body.constant(np.array([1], np.int64))
        shape = body.one("Concat", ones, frames, one, axis=0)
        inputs += [None, None, body.one("Expand", mask, shape)]
    return body.one("MultiHeadAttention", *inputs, domain=MICROSOFT, **fields)


def without_heads(x: ir.Value | None) -> ir.Value:
    """`(B, T, H)` as it was before Transformers split it into heads and this file joined them."""
    assert x is not None
    found: ir.Value | None = x
    while found is not None:
        node = found.producer()
        if node is None or node.op_type not in ("Reshape", "Transpose"):
            return found if found.shape == x.shape else x
        found = node.inputs[0]
    return x


def integer_attention_branch(body: Body, node: ir.Node, whole: bool) -> ir.Value:
    """`QuantAttention.emulate` node by node."""
    heads = node.attributes["num_heads"].as_int()
    sides = {side: without_heads(x) for side, x in zip(SIDES, node.inputs[:3], strict=True)}
    ranges = {side: node.attributes[side].as_floats() for side in SIDES}
    width = sides["value"].shape[-1] if sides["value"].shape is not None else None
    assert isinstance(width, int)
    split = body.constant(np.array([0, 0, heads, width // heads], np.int64))

    def levels(side: str, perm: list[int]) -> tuple[ir.Value, ir.Value]:
        scale, zero, low, high = ranges[side]
        kind = np.int8 if low < 0 else np.uint8
        zero_point = body.constant(np.array(zero, kind))
        x = body.one("QuantizeLinear", sides[side], body.constant(np.array(scale, np.float32)), zero_point)
        if (low, high) != (np.iinfo(kind).min, np.iinfo(kind).max):
            x = body.one("Clip", x, body.constant(np.array(low, kind)), body.constant(np.array(high, kind)))
        return body.one("Transpose", body.one("Reshape", x, split), perm=perm), zero_point

    def product(x: ir.Value, y: ir.Value, scales: tuple[Any, Any], *zeros: ir.Value) -> ir.Value:
        stored = (body.constant(np.array(scale, np.float32)) for scale in scales)
        return body.one("MatMulIntegerToFloat", x, y, *stored, *zeros, domain=MICROSOFT)

    (query, query_zero), (key, key_zero) = levels("query", [0, 2, 1, 3]), levels("key", [0, 2, 3, 1])
    scaled = np.float32(ranges["query"][0]) * np.float32(node.attributes["scale"].as_float())
    scores = product(query, key, (scaled, ranges["key"][0]), query_zero, key_zero)
    if not whole:
        scores = body.one("Add", scores, node.inputs[3])
    probabilities = body.one("Softmax", scores, axis=-1)
    top = body.one("ReduceMax", probabilities, body.constant(np.array([-1], np.int64)), keepdims=1)
    row_scale = body.one("Div", top, body.constant(np.array(node.attributes["largest"].as_int(), np.float32)))
    flat_scale = body.one("Reshape", row_scale, body.constant(np.array([-1], np.int64)))
    flat = body.one("QuantizeLinear", body.one("Flatten", probabilities, axis=3), flat_scale, axis=0)
    rows = body.one("Reshape", flat, body.one("Shape", probabilities))
    value, value_zero = levels("value", [0, 2, 1, 3])
    zero = body.constant(np.array(0, np.uint8))
    context = product(rows, value, (1.0, ranges["value"][0]), zero, value_zero)
    context = body.one("Transpose", body.one("Mul", context, row_scale), perm=[0, 2, 1, 3])
    return body.one("Reshape", context, body.constant(np.array([0, 0, width], np.int64)))
