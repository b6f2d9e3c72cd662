"""Affine fake quantization with a straight-through gradient.

`Q(x) = s * (clip(round(x / s) + z, n, p) - z)`; Krishnamoorthi 2018 (arXiv 1806.08342), Nagel 2021 (2106.08295).
On a GPU `fused.py` runs Triton kernels; elsewhere `kernel.py` computes the same bits, several times faster than
PyTorch's own kernel does on a CPU. Compiled code calls either through `traced.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat.numerics import fused, traced
from qat.numerics.kernel import quantize_dequantize
from qat.numerics.rounding import NoiseKey
from qat.numerics.scales import both_along, lsq_factor, positive, scale_gradient

U8_LEVELS = 255  # steps of an unsigned 8-bit range


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
    noise: Tensor | NoiseKey | None = None,
    grad_factor: float | None = None,
    clips: bool = True,
) -> Tensor:
    """Quantize and dequantize in float32, whatever autocast says.

    The gradient passes where `x` is inside the range and is zero where it was clipped. A `scale` that requires a
    gradient counts by its magnitude, and gets LSQ's gradient (Esser 2019, arXiv 1902.08153): `round(x/s) - x/s` inside,
    the clipped level outside.

    Args:
        x: any shape.
        scale: float32 `(1,)`, or `(C,)` along `axis`; positive.
        zero_point: integer tensor of the same shape; None is zero.
        quant_min: smallest level.
        quant_max: largest level.
        axis: dimension of `x` that `scale` runs along; None for one scale.
        noise: for stochastic rounding: the key of uniform noise, or the noise itself, like `x`: floats in [0, 1), or
            the int16 of `NoiseKey.bits`.
        grad_factor: multiplies the gradient of `scale`; None is LSQ's `1 / sqrt(numel p)`, `numel` being the values
            that share one scale.
        clips: False promises that `scale` covers all of `x`, so the gradient passes everywhere.

    Returns:
        Of the dtype of `x`; by Triton kernels under autocast, of autocast's.

    >>> fake_quantize(torch.tensor([0.26, 9.0]), torch.tensor([0.5]), None, -3, 3).tolist()
    [0.5, 1.5]
    """
    levels = (quant_min, quant_max)
    if traced.is_compiled() and not isinstance(noise, Tensor):
        return traced.fake_quantize(x, scale, zero_point, *levels, axis, noise, grad_factor, clips)
    learned = scale.requires_grad
    if learned and grad_factor is None:
        grad_factor = lsq_factor(x.numel(), scale.numel(), quant_max)
    if fused.applies(x) and not isinstance(noise, Tensor) and fused.fits(x, scale, zero_point, axis):
        return fused.fake_quantize(x, scale, zero_point, *levels, noise, grad_factor, clips)
    scale, zero_point = both_along(positive(scale), zero_point, x.ndim, axis)
    if torch.is_grad_enabled() and (x.requires_grad or learned):
        return _FakeQuantize.apply(x, scale, zero_point, quant_min, quant_max, noise, grad_factor, clips)
    values = quantize_dequantize(x.detach().float(), scale.detach(), zero_point, *levels, noise)[0]
    return values.to(x.dtype)


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
        noise: Tensor | NoiseKey | None,
        grad_factor: float | None,
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
            grad_scale = scale_gradient(grad, x, values, mask, scale, ctx.grad_factor)
        return grad_x, grad_scale, None, None, None, None, None, None


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
