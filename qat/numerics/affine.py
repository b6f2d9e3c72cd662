"""Affine fake quantization with a straight-through gradient.

`Q(x) = s * (clip(round(x / s) + z, n, p) - z)`; Krishnamoorthi 2018 (arXiv 1806.08342), Nagel 2021 (2106.08295).
On a GPU the nearest case runs PyTorch's fused kernel; elsewhere `kernel.py` computes the same bits, several times
faster than that kernel does on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat.numerics.kernel import quantize_dequantize

U8_LEVELS = 255  # steps of an unsigned 8-bit range
SCALE_FLOOR = 2.0**-30  # a scale is never zero: dead channels divide by this


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
    noise: Tensor | None = None,
    grad_factor: float = 1.0,
    clips: bool = True,
) -> Tensor:
    """Quantize and dequantize in float32 (whatever autocast says); the result has the dtype of `x`.

    The gradient passes where `x` is inside the range and is zero where it was clipped. A `scale` that requires a
    gradient gets LSQ's (Esser 2019, arXiv 1902.08153): `round(x/s) - x/s` inside, the clipped level outside.

    Args:
        x: any shape.
        scale: float32 `(1,)`, or `(C,)` along `axis`; positive.
        zero_point: integer tensor of the same shape; None is zero.
        quant_min: smallest level.
        quant_max: largest level.
        axis: dimension of `x` that `scale` runs along; None for one scale.
        noise: uniform noise like `x` for stochastic rounding: floats in [0, 1), or the int16 of `noise_bits`.
        grad_factor: multiplies the gradient of `scale`.
        clips: False promises that `scale` covers all of `x`, so the gradient passes everywhere.

    >>> fake_quantize(torch.tensor([0.26, 9.0]), torch.tensor([0.5]), None, -3, 3).tolist()
    [0.5, 1.5]
    """
    if x.is_cuda and noise is None and not scale.requires_grad:
        return _fused(x, scale, zero_point, quant_min, quant_max, axis)
    scale, zero_point = both_along(scale, zero_point, x.ndim, axis)
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return _FakeQuantize.apply(x, scale, zero_point, quant_min, quant_max, noise, grad_factor, clips)
    scale = scale.detach()
    return quantize_dequantize(x.detach().float(), scale, zero_point, quant_min, quant_max, noise)[0].to(
        x.dtype
    )


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
) -> Tensor:
    """Integer levels `clip(round(x / s) + z, n, p)`: uint8 if the range starts at 0, else int8.

    >>> quantize(torch.tensor([0.26, -9.0]), torch.tensor([0.5]), None, -3, 3)
    tensor([ 1, -3], dtype=torch.int8)
    """
    scale, zero_point = both_along(scale, zero_point, x.ndim, axis)
    levels = (x.detach().float() * scale.detach().reciprocal()).round_()
    if zero_point is not None:
        levels.add_(zero_point)
    return levels.clamp_(quant_min, quant_max).to(torch.uint8 if quant_min >= 0 else torch.int8)


def dequantize(levels: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
    """`s * (q - z)` in float32; `dequantize(quantize(x))` equals `fake_quantize(x)` bit for bit."""
    scale, zero_point = both_along(scale, zero_point, levels.ndim, axis)
    values = levels.float() if zero_point is None else levels.float() - zero_point
    return values * scale.detach()


def both_along(
    scale: Tensor, zero_point: Tensor | None, ndim: int, axis: int | None
) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point (None is zero), each `along` the axis."""
    return along(scale, ndim, axis), None if zero_point is None else along(zero_point, ndim, axis)


def along(values: Tensor, ndim: int, axis: int | None) -> Tensor:
    """Reshape `(C,)` so that it broadcasts along dimension `axis` of a tensor with `ndim` dimensions."""
    if axis is None or values.numel() == 1:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.view(shape)


class _FakeQuantize(torch.autograd.Function):
    """Masked straight-through estimator; with a gradient of the scale if that is learned."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        low: int,
        high: int,
        noise: Tensor | None,
        grad_factor: float,
        clips: bool,
    ) -> Tensor:
        ctx.learned = scale.requires_grad
        ctx.grad_factor = grad_factor
        masked = clips or ctx.learned
        out, mask = quantize_dequantize(x.float(), scale.detach(), zero_point, low, high, noise, masked)
        values = out.to(x.dtype)
        ctx.save_for_backward(mask, *((x, scale, values) if ctx.learned else ()))
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        mask, *rest = ctx.saved_tensors
        grad_x = (grad if mask is None else grad * mask) if ctx.needs_input_grad[0] else None
        grad_scale = None
        if ctx.learned:
            x, scale, values = rest
            slope = values.float() - x.float() * mask  # times 1/s: round(x/s) - x/s inside, the level outside
            slope.mul_(grad)
            grad_scale = slope.sum_to_size(scale.shape).div(scale).mul_(ctx.grad_factor)
        return grad_x, grad_scale, None, None, None, None, None, None


def _fused(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int, axis: int | None
) -> Tensor:
    """PyTorch's kernel: one launch, and one byte of mask per element."""
    if zero_point is None:
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
    if axis is None or scale.numel() == 1:
        out = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, low, high)
    else:
        out = torch.fake_quantize_per_channel_affine(x.float(), scale, zero_point, axis, low, high)
    return out.to(x.dtype)


def dynamic_range(low: Tensor, high: Tensor, levels: int = U8_LEVELS) -> tuple[Tensor, Tensor]:
    """Scale and zero point (as float) of a dynamic unsigned quantization of values in [low, high].

    The range is stretched to hold zero; a range of zero alone gets scale 1.

    Args:
        low: smallest value, any shape.
        high: largest value, of the same shape.
        levels: number of steps, so that levels lie in [0, levels].

    >>> dynamic_range(torch.tensor([-1.0]), torch.tensor([1.55]))
    (tensor([0.0100]), tensor([100.]))
    """
    low = low.clamp(max=0.0)
    scale = (high.clamp(min=0.0) - low) / levels
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return scale, (low / scale).neg_().round_().clamp_(0, levels)


def centred_levels(
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int = 0, quant_max: int = U8_LEVELS
) -> Tensor:
    """`clip(round(x / s) + z, n, p) - z` as floats; divides as ONNX's `QuantizeLinear` does.

    >>> centred_levels(torch.tensor([-9.0, 0.26, 9.0]), torch.tensor([0.5]), torch.tensor([3.0]), 0, 15)
    tensor([-3.,  1., 12.])
    """
    return (x / scale).round_().add_(zero_point).clamp_(quant_min, quant_max).sub_(zero_point)
