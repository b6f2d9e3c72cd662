"""Integer weights, biases and activation ranges, read off the quantizers of a trained layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.layers.activation import AffineQuantizer
from qat.layers.integer import bias_levels
from qat.layers.weight import WeightQuantizer
from qat.runtime import operators


class ActivationRange(nn.Module):
    """Scale, zero point and bounds of an activation quantizer with one range, moved to uint8.

    A signed quantizer becomes unsigned by adding 128 to everything: the same real numbers on the fast kernels.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: AffineQuantizer) -> None:
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

    def __init__(self, weight: Tensor, quantizer: WeightQuantizer) -> None:
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
    return ActivationRange(quantizer) if isinstance(quantizer, AffineQuantizer) else nn.Identity()


@torch.no_grad()
def integer_weight(weight: Tensor, quantizer: WeightQuantizer) -> tuple[Tensor, Tensor]:
    """int8 weight of the same shape and its scales `(C,)`, one an output channel (axis 0).

    Raises:
        RuntimeError: the fake-quantized weight is not made of levels of the scale.
    """
    levels, scale, _ = quantizer.levels(weight)
    fake = quantizer(weight).float() / scale.reshape(-1, *[1] * (weight.ndim - 1))
    if not bool(((fake - levels).abs() < 1e-3).all()) or float(levels.abs().max()) > 128:
        raise RuntimeError(
            "a fake-quantized weight is not made of integer levels; is its quantizer in eval mode?"
        )
    return levels.to(torch.int8), scale


def integer_bias(
    bias: Tensor | None, weight: Tensor, input_scale: Tensor, weight_scale: Tensor
) -> tuple[Tensor | None, Tensor]:
    """int32 `bias_levels`; no bias leaves the scales as they are."""
    if bias is None:
        return None, weight_scale
    levels, scale = bias_levels(bias, weight, input_scale, weight_scale)
    return levels.to(torch.int32), scale


def float_bias(bias: Tensor | None) -> Tensor | None:
    """A copy of a bias in float32."""
    return None if bias is None else bias.detach().float().clone()
