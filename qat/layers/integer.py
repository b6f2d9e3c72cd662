"""What an integer kernel computes, on integer-valued floats: evaluation equals the exported file.

A float32 sum of products of levels is exact below 2^24, whatever its order, so a layer's sums are the kernel's int32
sums (for up to 1,044 products of 8-bit activations and 7-bit weights of full size; longer sums that stay below 2^24 as
well). Rounding a product of dequantized floats instead moves an output level now and then, most where a bias has to be
a whole number of sums, and later layers amplify that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qat.numerics.scales import SCALE_FLOOR
from qat.system.errors import UserError

INT32_MAX = 2**31 - 1


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
