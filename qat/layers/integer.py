"""What an integer kernel computes, on integer-valued floats: evaluation equals the exported file.

A float32 sum of products of levels is exact below 2^24, whatever its order, so a layer's sums are the kernel's int32
sums (for up to 1,044 products of 8-bit activations and 7-bit weights of full size; longer sums that stay below 2^24 as
well). Rounding a product of dequantized floats instead moves an output level now and then, most where a bias has to be
a whole number of sums, and later layers amplify that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.layers.quantizer import Quantizer
from qat.numerics.affine import SCALE_FLOOR, centred_levels
from qat.system.errors import UserError

INT32_MAX = 2**31 - 1


def computes_integers(layer: nn.Module) -> bool:
    """Whether a linear layer or convolution is to emulate its integer kernel: evaluated, no gradient, both sides on."""
    sides = (layer.input_quantizer, layer.weight_quantizer)
    return (
        not layer.training
        and not torch.is_grad_enabled()
        and all(isinstance(side, Quantizer) and side.is_enabled and not side.observing for side in sides)
    )


def activation_levels(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Levels of an activation less the zero point, as float32."""
    scale, zero_point = quantizer.positive_scale(), quantizer.zero_point
    return centred_levels(x.float(), scale, zero_point, quantizer.quant_min, quantizer.quant_max)


def weight_levels(weight: Tensor, quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    """Levels of a weight as float32 of the same shape, and its scales `(C,)`, one an output channel (axis 0).

    The levels are read off the fake-quantized weight, so they hold whatever rounding the quantizer was trained to.
    Levels between whole steps are odd numbers of half steps.
    """
    scale = quantizer.positive_scale().detach().float().expand(weight.shape[0]).contiguous()
    scale = scale / 2 if quantizer.level_offset else scale
    return quantizer(weight).float().div(scale.reshape(-1, *[1] * (weight.ndim - 1))).round_(), scale


def bias_levels(
    bias: Tensor, weight: Tensor, input_scale: Tensor, weight_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Bias in units of `input_scale * weight_scale`, whole float64, and the weight scales that go with it, each `(C,)`.

    A channel whose weights are all zero (or as near to it as a scale can be) may have any scale: it gets one that its
    bias fits in.

    Raises:
        UserError: the bias of another channel exceeds int32.
    """
    bias, unit = bias.detach().double(), input_scale.double()
    empty = (weight.flatten(1) == 0).all(1) | (weight_scale <= SCALE_FLOOR)
    fitting = torch.maximum(weight_scale.double(), bias.abs() / (unit * (INT32_MAX // 2)))
    scale = torch.where(empty, fitting, weight_scale.double()).float()
    levels = (bias / (unit * scale.double())).round()
    if levels.abs().max() > INT32_MAX:
        channel = int(levels.abs().argmax())
        raise UserError(f"the bias {bias[channel]:.3g} of channel {channel} does not fit the int32 sums")
    return levels, scale
