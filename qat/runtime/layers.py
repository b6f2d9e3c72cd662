"""What stands for a layer while its model is exported: int8 weights in buffers, integer operators in `forward`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.features import Fbank
from torch import Tensor, nn

from qat.layers.activation import ActivationQuantizer
from qat.layers.attention import QuantAttention
from qat.layers.base import QuantLayer
from qat.layers.blocks import BlockQuantizer
from qat.layers.conv import QuantConv1d, QuantConv2d, QuantFrameConv1d
from qat.layers.embedding import QuantEmbedding
from qat.layers.frames import FrameQuantizer
from qat.layers.gru import QuantGRU
from qat.layers.gru_cell import QuantGRUCell
from qat.layers.linear import QuantLinear
from qat.layers.lstm import QuantLSTM
from qat.layers.lstm_cell import QuantLSTMCell
from qat.layers.quantizer import Unquantized
from qat.layers.step_lstm import QuantStepLSTM, StepLSTM
from qat.layers.windows import padding_of
from qat.runtime import operators
from qat.runtime.cells import ExportedGRUCell, ExportedLSTMCell, ExportedStepLSTM
from qat.runtime.embedding import IntegerEmbedding
from qat.runtime.frontend import OnnxFbank
from qat.runtime.gru import ExportedGRU
from qat.runtime.linear import FrameLinear, IntegerLinear, PackedLinear
from qat.runtime.lstm import FloatLSTM, QuantizedLSTM
from qat.runtime.self_attention import IntegerAttention
from qat.runtime.weights import ActivationRange, StoredWeight, integer_bias, integer_weight


class IntegerConv(nn.Module):
    """`QuantConv1d` or `QuantConv2d` on uint8 activations and int8 weights, with a uint8 output.

    A two-dimensional one is computed with both spatial axes exchanged: ONNX Runtime brings the channels to the end,
    where SpeechBrain's layers have them, and `(B, T, F, C)` needs no transposition then.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight, scale = integer_weight(layer.weight, layer.weight_quantizer)
        self.input_range = ActivationRange(layer.input_quantizer)
        self.output_range = ActivationRange(layer.output_quantizer)
        bias, scale = integer_bias(layer.bias, weight, self.input_range.scale, scale)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias", bias)
        self.kernel_size, self.stride = layer.kernel_size, layer.stride  # models count frames with these
        self.dilation, self.groups, self.padding_mode = layer.dilation, layer.groups, layer.padding_mode
        sides = list(layer._reversed_padding_repeated_twice)  # last axis first, begin and end of each
        self.outer = [] if layer.padding_mode == "zeros" else sides
        inner = [0] * len(sides) if self.outer else sides
        self.exchanged = weight.ndim == 4
        order = slice(None) if self.exchanged else slice(None, None, -1)
        self.pads = inner[0::2][order] + inner[1::2][order]
        if self.exchanged:
            self.weight = weight.transpose(2, 3).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, C, ...)` -> float32 `(B, O, ...)`."""
        if any(self.outer):
            x = F.pad(x, self.outer, mode=self.padding_mode)
        inputs, outputs = self.input_range, self.output_range
        order = -1 if self.exchanged else 1
        x = x.transpose(2, 3) if self.exchanged else x
        y = operators.conv(
            inputs.quantize(x),
            inputs.scale,
            inputs.zero_point,
            self.weight,
            self.weight_scale,
            outputs.scale,
            outputs.zero_point,
            self.bias,
            stride=self.stride[::order],
            padding=self.pads,
            dilation=self.dilation[::order],
            groups=self.groups,
        )
        y = outputs.dequantize(y)
        return y.transpose(2, 3) if self.exchanged else y


class FrameConv(FrameLinear):
    """`QuantFrameConv1d`: a `FrameLinear` on the windows of `(B, C, T)`."""

    def __init__(self, layer: QuantFrameConv1d) -> None:
        super().__init__(layer)
        self.kernel_size, self.stride = layer.kernel_size, layer.stride  # models count frames with these
        self.dilation, (self.sides, self.padding_mode) = layer.dilation, padding_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, C, T)` -> `(B, O, T')`."""
        x = F.pad(x, self.sides, mode=self.padding_mode) if any(self.sides) else x
        x = x.transpose(1, 2)
        taps = operators.taps(x, self.kernel_size[0], self.dilation[0], self.stride[0])
        scale, zero_point = self.ranges_of_windows(x)
        # joined as bytes: a quarter of what the floats would take
        levels = torch.cat([self.quantize(tap, scale, zero_point) for tap in taps], dim=2)
        return self.product(levels, scale, zero_point).transpose(1, 2)

    def ranges_of_windows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point `(B, T', 1)` float32 of the windows of `(B, T, C)`: the reach of their frames.

        Each value is read once, however many windows share its frame.
        """
        batch, frames, channels = x.shape
        # after a reshape the runtime leaves the frames contiguous: reduced in a tenth of the time
        rows = operators.reshape(x, (0, 0, 1, -1), (batch, frames, 1, channels))
        ends = (-rows.amin(-1), rows.amax(-1))
        ends_in_time = [operators.reshape(end, (0, 1, -1), (batch, 1, frames)) for end in ends]
        reach = operators.max_pool(
            torch.cat(ends_in_time, dim=1), self.kernel_size[0], self.dilation[0], self.stride[0]
        )
        scale, zero_point = self.range_of(*torch.relu(reach).chunk(2, dim=1))
        shape = (batch, scale.shape[2], 1)
        return operators.reshape(scale, (0, -1, 1), shape), operators.reshape(zero_point, (0, -1, 1), shape)


class PartlyQuantized(nn.Module):
    """A layer of which only weights or only activations are quantized: stored so, computed in float.

    Activations are rounded by the quantizer's own float arithmetic: between `QuantizeLinear` nodes ONNX Runtime would
    quantize the float weights too.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.float_layer = layer.to_float()
        self.input_quantizer = layer.input_quantizer
        self.output_quantizer = getattr(layer, "output_quantizer", nn.Identity())
        self.stored = None
        if layer.layer_recipe.weight_bits:
            self.stored = StoredWeight(layer.weight, layer.weight_quantizer)
            del self.float_layer.weight
        for name in ("kernel_size", "stride"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        """As the float layer, on the quantized weight or activations."""
        layer = self.float_layer
        weight = layer.weight if self.stored is None else self.stored()
        compute: Callable[..., Tensor] = getattr(layer, "_conv_forward", F.linear)
        return self.output_quantizer(compute(self.input_quantizer(x), weight, layer.bias))


# what stands for a quantized layer, by its class and that of its input's quantizer (where weights are float: none)
QUANTIZED: dict[tuple[type[nn.Module], type[nn.Module]], Callable[[Any], nn.Module]] = {
    (QuantLinear, ActivationQuantizer): IntegerLinear,
    (QuantLinear, BlockQuantizer): PackedLinear,
    (QuantLinear, FrameQuantizer): FrameLinear,
    (QuantLinear, Unquantized): PartlyQuantized,
    (QuantConv1d, ActivationQuantizer): IntegerConv,
    (QuantConv1d, Unquantized): PartlyQuantized,
    (QuantConv2d, ActivationQuantizer): IntegerConv,
    (QuantConv2d, Unquantized): PartlyQuantized,
    (QuantFrameConv1d, FrameQuantizer): FrameConv,
    (QuantLSTM, ActivationQuantizer): QuantizedLSTM,
    (QuantLSTM, Unquantized): QuantizedLSTM,
    (QuantEmbedding, Unquantized): IntegerEmbedding,
}
# recurrent cells ask their own quantizers what each product is computed on
CELLS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    QuantGRUCell: ExportedGRUCell,
    QuantLSTMCell: ExportedLSTMCell,
    QuantStepLSTM: ExportedStepLSTM,
    QuantGRU: ExportedGRU,
}
PLAIN: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.LSTM: FloatLSTM,
    StepLSTM: ExportedStepLSTM,
    nn.GRU: ExportedGRU,
    nn.GRUCell: ExportedGRUCell,
    nn.LSTMCell: ExportedLSTMCell,
    Fbank: OnnxFbank,
}


def exported_layer(layer: nn.Module, precision: str) -> nn.Module:
    """What stands for `layer` in an exported file; the layer itself where nothing has to.

    Args:
        layer: any module.
        precision: "float" undoes the quantization first.
    """
    if isinstance(layer, QuantAttention):
        return nn.Identity() if precision == "float" else IntegerAttention(layer)
    if not isinstance(layer, QuantLayer) or precision == "float":
        plain = layer.to_float() if isinstance(layer, QuantLayer) else layer
        build = PLAIN.get(type(plain))
        return plain if build is None else build(plain)
    if type(layer) in CELLS:
        return CELLS[type(layer)](layer)
    inputs = type(layer.input_quantizer) if layer.layer_recipe.weight_bits else Unquantized
    return QUANTIZED[type(layer), inputs](layer)


def replace_layers_(model: nn.Module, precision: str) -> None:
    """Put `exported_layer` in place of every layer below `model`; shared modules stay shared."""
    replace_modules_(model, lambda layer: exported_layer(layer, precision))


def replace_modules_(model: nn.Module, build: Callable[[nn.Module], nn.Module]) -> None:
    """Put what `build` makes of each module below `model` in its place; shared modules stay shared."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                if child not in made:
                    made[child] = build(child)
                parent._modules[name] = made[child]
