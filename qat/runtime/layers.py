"""What stands for a layer while its model is exported: int8 weights in buffers, integer operators in `forward`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from speechbrain.lobes.features import Fbank
from torch import Tensor, nn

from qat.layers.base import QuantLayer
from qat.layers.blocks import blocks_of
from qat.layers.conv import QuantConv1d, QuantConv2d
from qat.layers.frames import by_frame, matrix_of, padding_of
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.quantizer import Quantizer
from qat.numerics.affine import dynamic_range
from qat.runtime import operators
from qat.runtime.frontend import OnnxFbank
from qat.runtime.lstm import ExportedLSTM
from qat.runtime.weights import ActivationRange, StoredWeight, integer_bias, integer_weight


class IntegerLinear(nn.Module):
    """`QuantLinear` on uint8 activations and int8 weights."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        weight, scale = integer_weight(layer.weight, quantizer_of(layer.weight_quantizer))
        self.input_range = ActivationRange(quantizer_of(layer.input_quantizer))
        self.register_buffer("weight", weight.t().contiguous())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> float32 `(..., O)`."""
        inputs = self.input_range
        levels = inputs.quantize(x)
        return operators.linear(
            levels, inputs.scale, inputs.zero_point, self.weight, self.weight_scale, self.bias
        )


class PackedLinear(nn.Module):
    """`QuantLinear` on 4-bit weights as they are stored, and int8 activations in blocks."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__()
        levels, scale = integer_weight(layer.weight, quantizer_of(layer.weight_quantizer))
        self.columns, self.block_size = layer.in_features, layer.block_size
        codes = (blocks_of(levels, self.block_size) + 8).to(torch.uint8)
        self.register_buffer("weight", codes[..., 0::2] | (codes[..., 1::2] << 4))
        self.register_buffer("weight_scale", scale[:, None].expand(-1, codes.shape[1]).contiguous())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> float32 `(..., O)`."""
        return operators.packed_linear(
            x, self.weight, self.weight_scale, self.bias, self.columns, self.block_size
        )


class IntegerConv(nn.Module):
    """`QuantConv1d` or `QuantConv2d` on uint8 activations and int8 weights, with a uint8 output."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantConv1d | QuantConv2d) -> None:
        super().__init__()
        weight, scale = integer_weight(layer.weight, quantizer_of(layer.weight_quantizer))
        self.input_range = ActivationRange(quantizer_of(layer.input_quantizer))
        self.output_range = ActivationRange(quantizer_of(layer.output_quantizer))
        bias, scale = integer_bias(layer.bias, weight, self.input_range.scale, scale)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", bias)
        self.kernel_size, self.stride = layer.kernel_size, layer.stride  # models count frames with these
        self.dilation, self.groups, self.padding_mode = layer.dilation, layer.groups, layer.padding_mode
        sides = list(layer._reversed_padding_repeated_twice)  # last axis first, begin and end of each
        self.outer = [] if layer.padding_mode == "zeros" else sides
        self.pads = [0] * len(sides) if self.outer else sides[0::2][::-1] + sides[1::2][::-1]

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, C, ...)` -> float32 `(B, O, ...)`."""
        if any(self.outer):
            x = F.pad(x, self.outer, mode=self.padding_mode)
        inputs, outputs = self.input_range, self.output_range
        y = operators.conv(
            inputs.quantize(x),
            inputs.scale,
            inputs.zero_point,
            self.weight,
            self.weight_scale,
            outputs.scale,
            outputs.zero_point,
            self.bias,
            stride=self.stride,
            padding=self.pads,
            dilation=self.dilation,
            groups=self.groups,
        )
        return outputs.dequantize(y)


class FrameLinear(nn.Module):
    """`QuantLinear`, or `QuantConv1d` on its windows, on uint8 activations with a range for each frame."""

    weight: Tensor
    weight_scale: Tensor
    zero_weight: Tensor
    one: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantLinear | QuantConv1d) -> None:
        super().__init__()
        levels, scale = integer_weight(layer.weight, quantizer_of(layer.weight_quantizer))
        matrix = matrix_of(levels)
        self.quant_max = quantizer_of(layer.input_quantizer).quant_max
        self.register_buffer("weight", matrix.t().contiguous())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("zero_weight", -(matrix.sum(1).float() * scale))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("zero", torch.zeros((), dtype=torch.uint8))
        self.is_conv = isinstance(layer, QuantConv1d)
        if isinstance(layer, QuantConv1d):
            self.kernel_size, self.stride = layer.kernel_size, layer.stride  # models count frames with these
            self.dilation, (self.sides, self.padding_mode) = layer.dilation, padding_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(..., I)` -> `(..., O)`, or `(B, C, T)` -> `(B, O, T')`: `frame_linear`, node by node."""
        if self.is_conv:
            x = F.pad(x, self.sides, mode=self.padding_mode) if any(self.sides) else x
            x = x.transpose(1, 2)
        # behind a reshape the runtime leaves the frames contiguous: reduced in a tenth of the time
        frames = x.flatten(0, -2)
        low, high = (end.unflatten(0, x.shape[:-1]) for end in (frames.amin(-1, True), frames.amax(-1, True)))
        if self.is_conv:
            x = self.windows(x)
            low, high = self.windows(low).amin(-1, keepdim=True), self.windows(high).amax(-1, keepdim=True)
        scale, zero_point = (item.flatten(0, -2) for item in dynamic_range(low, high, self.quant_max))
        levels = operators.quantize(
            x.flatten(0, -2), scale.flatten(), zero_point.to(torch.uint8).flatten(), quant_max=self.quant_max
        )
        out = operators.linear(levels, self.one, self.zero, self.weight, self.weight_scale, None)
        rest = (zero_point * scale) * self.zero_weight
        rest = rest if self.bias is None else rest + self.bias
        out = (out * scale + rest).unflatten(0, x.shape[:-1])
        return out.transpose(1, 2) if self.is_conv else out

    def windows(self, x: Tensor) -> Tensor:
        """`windows_of`, exported: `(B, T, C)` -> `(B, T', K C)`."""
        return operators.windows(x, self.kernel_size[0], self.dilation[0], self.stride[0])


class PartlyQuantized(nn.Module):
    """A layer of which only weights or only activations are quantized: stored so, computed in float.

    Activations are rounded by the quantizer's own float arithmetic: between `QuantizeLinear` nodes ONNX Runtime would
    quantize the float weights too.
    """

    def __init__(self, layer: QuantLinear | QuantConv1d | QuantConv2d) -> None:
        super().__init__()
        self.float_layer = layer.to_float()
        self.input_quantizer = layer.input_quantizer
        self.output_quantizer = getattr(layer, "output_quantizer", nn.Identity())
        self.stored: nn.Module = nn.Identity()
        if isinstance(layer.weight_quantizer, Quantizer):
            self.stored = StoredWeight(layer.weight, layer.weight_quantizer)
            del self.float_layer.weight
        for name in ("kernel_size", "stride"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        """As the float layer, on the quantized weight or activations."""
        layer = self.float_layer
        weight = self.stored() if isinstance(self.stored, StoredWeight) else layer.weight
        compute: Callable[..., Tensor] = getattr(layer, "_conv_forward", F.linear)
        return self.output_quantizer(compute(self.input_quantizer(x), weight, layer.bias))


EXPORTED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    QuantLinear: IntegerLinear,
    QuantConv1d: IntegerConv,
    QuantConv2d: IntegerConv,
    QuantLSTM: ExportedLSTM,
    nn.LSTM: ExportedLSTM,
    Fbank: OnnxFbank,
}


def exported_layer(layer: nn.Module, precision: str) -> nn.Module:
    """What stands for `layer` in an exported file; the layer itself where nothing has to.

    Args:
        layer: any module.
        precision: "float" undoes the quantization first.
    """
    if precision == "float" and isinstance(layer, QuantLayer):
        layer = layer.to_float()
    build = EXPORTED.get(type(layer))
    if build is None:
        return layer
    if isinstance(layer, QuantLinear) and layer.block_size:
        return PackedLinear(layer)
    if isinstance(layer, QuantLinear | QuantConv1d) and by_frame(layer):
        return FrameLinear(layer)
    if isinstance(layer, QuantLinear | QuantConv1d | QuantConv2d):
        sides = (layer.input_quantizer, layer.weight_quantizer)
        if not all(isinstance(side, Quantizer) for side in sides):
            return PartlyQuantized(layer)
    return build(layer)


def replace_layers_(model: nn.Module, precision: str) -> None:
    """Put `exported_layer` in place of every layer below `model`; shared modules stay shared."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                if child not in made:
                    made[child] = exported_layer(child, precision)
                parent._modules[name] = made[child]


def quantizer_of(child: nn.Module) -> Quantizer:
    """`child`, known to be a quantizer."""
    assert isinstance(child, Quantizer)
    return child
