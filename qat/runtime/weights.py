"""Integer weights, biases and activation ranges, read off the quantizers of a trained layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.errors import UserError
from qat.layers import Quantizer
from qat.runtime import operators

INT32_MAX = 2**31 - 1


class ActivationRange(nn.Module):
    """Scale, zero point and bounds of a calibrated activation quantizer, moved to uint8.

    A signed quantizer becomes unsigned by adding 128 to everything: the same real numbers on the fast kernels.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        shift = 128 if quantizer.quant_min < 0 else 0
        self.quant_min, self.quant_max = quantizer.quant_min + shift, quantizer.quant_max + shift
        zero_point = torch.tensor(int(quantizer.zero_point) + shift, dtype=torch.uint8)
        self.register_buffer("scale", quantizer.positive_scale().detach().float().reshape(()).clone())
        self.register_buffer("zero_point", zero_point)

    def quantize(self, x: Tensor) -> Tensor:
        """float32 -> uint8."""
        return operators.quantize(x, self.scale, self.zero_point, self.quant_min, self.quant_max)

    def dequantize(self, x: Tensor) -> Tensor:
        """uint8 -> float32."""
        return operators.dequantize(x, self.scale, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """float32 -> the nearest float32 that the range can represent."""
        return self.dequantize(self.quantize(x))


class StoredWeight(nn.Module):
    """An int8 weight whose layer computes in float: the file is small, the arithmetic is not integer.

    `DequantizeLinear` to whole numbers and Mul, not `DequantizeLinear` alone: that one in front of a MatMul becomes
    `MatMulNBits`, which quantizes the activations as well. (The exporter folds a Cast back to float weights.)
    """

    levels: Tensor
    scale: Tensor
    one: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, quantizer: Quantizer) -> None:
        super().__init__()
        levels, scale = integer_weight(weight, quantizer)
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale.reshape(-1, *[1] * (weight.ndim - 1)))
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("zero", torch.zeros((), dtype=torch.int8))

    def forward(self) -> Tensor:
        """The float32 weight."""
        return operators.dequantize(self.levels, self.one, self.zero) * self.scale


def activation_range(quantizer: nn.Module) -> nn.Module:
    """The exported form of an activation quantizer; identity where activations stay float."""
    return ActivationRange(quantizer) if isinstance(quantizer, Quantizer) else nn.Identity()


@torch.no_grad()
def integer_weight(weight: Tensor, quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    """int8 weight of the same shape and its scales `(C,)`, one an output channel (axis 0).

    The levels are read off the fake-quantized weight, so they hold whatever rounding the quantizer was trained to.

    Raises:
        RuntimeError: the fake-quantized weight is not made of levels of the scale.
    """
    scale = quantizer.positive_scale().detach().float().expand(weight.shape[0]).contiguous()
    fake = quantizer(weight).float() / scale.reshape(-1, *[1] * (weight.ndim - 1))
    levels = fake.round()
    if not bool(((fake - levels).abs() < 1e-3).all()) or float(levels.abs().max()) > 128:
        raise RuntimeError(
            "a fake-quantized weight is not made of integer levels; is its quantizer in eval mode?"
        )
    return levels.to(torch.int8), scale


def integer_bias(
    bias: Tensor | None, weight: Tensor, input_scale: Tensor, weight_scale: Tensor
) -> tuple[Tensor | None, Tensor]:
    """int32 bias in units of `input_scale * weight_scale`, and the weight scales that go with it, each `(C,)`.

    A channel whose weights are all zero may have any scale: it gets one that its bias fits in.

    Raises:
        UserError: the bias of another channel exceeds int32.
    """
    if bias is None:
        return None, weight_scale
    bias, unit = bias.detach().double(), input_scale.double()
    empty = (weight.flatten(1) == 0).all(1)
    fitting = torch.maximum(weight_scale.double(), bias.abs() / (unit * (INT32_MAX // 2)))
    scale = torch.where(empty, fitting, weight_scale.double()).float()
    levels = (bias / (unit * scale.double())).round()
    if levels.abs().max() > INT32_MAX:
        channel = int(levels.abs().argmax())
        raise UserError(
            f"export: the bias {bias[channel]:.3g} of channel {channel} does not fit the int32 sums"
        )
    return levels.to(torch.int32), scale
