"""Graphs as ONNX Runtime computes them fastest: the order of axes in float layers of SpeechBrain, and levels moved, not
floats.

SpeechBrain has channels last, `(B, T, F, C)`, PyTorch's convolutions `(B, C, F, T)`, its pooling the pooled axis. ONNX
Runtime moves a single axis to another place about twenty times faster than it reverses three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import onnx_ir as ir
import torch
from speechbrain.nnet.pooling import Pooling1d
from torch import Tensor, nn

from qat.runtime import operators
from qat.runtime.layers import PartlyQuantized, replace_modules_

MOVES = ("Transpose", "Unsqueeze", "Pad", "ScatterND")


class ExchangedConv(nn.Conv2d):
    """What stands for a float convolution of `(B, C, F, T)` that pads with zeros: one of `(B, C, T, F)`.

    (On integers ONNX Runtime takes channels last: `qat.runtime.layers.IntegerConv`.)
    """

    @classmethod
    @torch.no_grad()
    def of(cls, conv: nn.Conv2d) -> ExchangedConv:
        """From the convolution; without a weight where that has none (it is stored in few bits then)."""
        padding = conv.padding if isinstance(conv.padding, str) else conv.padding[::-1]
        sizes = (conv.kernel_size[::-1], conv.stride[::-1], padding, conv.dilation[::-1])
        has_bias = conv.bias is not None
        new = cls(conv.in_channels, conv.out_channels, *sizes, conv.groups, has_bias)  # type: ignore[arg-type]
        new.bias = conv.bias
        if "weight" in conv._parameters:
            new.weight = nn.Parameter(conv.weight.transpose(2, 3).contiguous())
        else:
            del new.weight
        return new

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x.transpose(2, 3), weight, bias).transpose(2, 3)


class ExportedPooling(nn.Module):
    """What stands for pooling of `(B, T, F, C)` along time or frequency, without moving an axis."""

    def __init__(self, pooling: Pooling1d) -> None:
        super().__init__()
        layer, self.in_time = pooling.pool_layer, pooling.pool_axis == 1
        sizes = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
        if isinstance(layer, nn.MaxPool2d):
            sizes["dilation"] = layer.dilation
        turned = {name: value[::-1] for name, value in sizes.items()}
        self.pool_layer = type(layer)(**turned, ceil_mode=layer.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, F, C)` -> `(B, T', F, C)` or `(B, T, F', C)`."""
        if not self.in_time:
            out: Tensor = self.pool_layer(x)  # frames as channels
            return out
        batch, frames, bands, channels = x.shape
        rows = operators.reshape(x, (0, 1, -1, bands * channels), (batch, 1, frames, bands * channels))
        rows = self.pool_layer(rows)
        return operators.reshape(rows, (0, -1, bands, channels), (batch, rows.shape[2], bands, channels))


def arrange_(model: nn.Module) -> int:
    """Put the forms above in place of float convolutions in 2D that pad with zeros, and of pooling; their number."""
    replace_modules_(model, arranged)
    return sum(isinstance(module, ExchangedConv | ExportedPooling) for module in model.modules())


def arranged(layer: nn.Module) -> nn.Module:
    """What stands for a layer; itself where nothing has to."""
    if isinstance(layer, PartlyQuantized) and can_be_exchanged(layer.float_layer):
        layer.float_layer = ExchangedConv.of(layer.float_layer)
        if layer.stored is not None:
            layer.stored.levels = layer.stored.levels.transpose(2, 3).contiguous()
    if can_be_exchanged(layer):
        return ExchangedConv.of(layer)
    if isinstance(layer, Pooling1d) and can_be_exported(layer):
        return ExportedPooling(layer)
    return layer


def can_be_exported(pooling: Pooling1d) -> bool:
    """Whether it pools `(B, T, F, C)` along time or frequency."""
    return isinstance(pooling.pool_layer, nn.MaxPool2d | nn.AvgPool2d) and pooling.pool_axis in (1, 2)


def can_be_exchanged(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a float convolution in 2D that pads with zeros."""
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros"


def quantize_first_(model: ir.Model) -> int:
    """Quantize before values are moved (mirrored, padded, transposed), which takes a quarter of the bytes then.

    The bits stay: what is moved is what is rounded.

    Returns:
        Number of QuantizeLinear nodes that were brought forward.
    """
    count = 0
    for node in list(model.graph):
        x, scale, *zero_point = node.inputs if node.op_type == "QuantizeLinear" else (None, None)
        if x is None or scale is None or scale.const_value is None or scale.const_value.size != 1:
            continue
        moves = moves_before(x)
        if follows_pooling(moves):  # ONNX Runtime would quantize before pooling, whose integer kernel is slow
            kinds = [move.op_type for move in moves]
            moves = moves[kinds.index("ScatterND") + 1 :] if "ScatterND" in kinds else []
        if not moves:
            continue
        source = moves[0].inputs[0]
        assert source is not None
        early = ir.node("QuantizeLinear", [source, scale, *zero_point], name=node.name)
        levels = early.outputs[0]
        levels.name, levels.shape, levels.type = f"{node.name}:source", source.shape, node.outputs[0].type
        model.graph.insert_before(moves[0], early)
        for move in moves:
            for place, value in enumerate(move.inputs):
                if value is source:
                    move.replace_input_with(place, levels)
            move.outputs[0].type = node.outputs[0].type
        node.outputs[0].replace_all_uses_with(x)
        model.graph.remove(node, safe=True)
        count += 1
    return count


def follows_pooling(moves: Sequence[ir.Node]) -> bool:
    """Whether what is moved comes from pooling."""
    source = moves[0].inputs[0].producer() if moves and moves[0].inputs[0] is not None else None
    return source is not None and source.op_type.endswith("Pool")


def moves_before(x: ir.Value) -> list[ir.Node]:
    """The nodes that only move the values that `x` is made of, in order: all read one value, its float source."""
    found: list[ir.Node] = []
    while True:
        readers = [use.node for use in x.uses()]
        read_elsewhere = any(node not in found for node in readers) if found else len(readers) != 1
        moves = [] if read_elsewhere or x.is_graph_output() else moves_of(x.producer())
        source = moves[0].inputs[0] if moves else None
        if source is None:
            return found
        found, x = [*moves, *found], source


def moves_of(node: ir.Node | None) -> list[ir.Node]:
    """The node itself if it only moves values of its first input; before it, what reads those that it mirrors."""
    if node is None or node.op_type not in MOVES:
        return []
    if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
        return []
    if node.op_type != "ScatterND":
        return [node]
    mirrored = node.inputs[2]
    gather = mirrored.producer() if mirrored is not None else None
    if mirrored is None or gather is None or len(mirrored.uses()) != 1 or mirrored.is_graph_output():
        return []
    return [gather, node] if gather.op_type == "GatherND" and gather.inputs[0] is node.inputs[0] else []
