"""Shapes and signs of scales."""

from __future__ import annotations

from torch import Tensor

SCALE_FLOOR = 2.0**-30  # a scale is never zero: dead channels divide by this


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


def positive(scale: Tensor) -> Tensor:
    """A scale that requires a gradient, kept positive; any other as it is."""
    return magnitude(scale) if scale.requires_grad else scale


def magnitude(scale: Tensor) -> Tensor:
    """What a learned scale counts as."""
    return scale.abs().clamp(min=SCALE_FLOOR)


def scale_gradient(
    grad: Tensor, x: Tensor, values: Tensor, mask: Tensor, scale: Tensor, factor: float
) -> Tensor:
    """Gradient of a positive scale: `round(x/s) - x/s` inside the range, the level outside (LSQ, arXiv 1902.08153).

    Args:
        grad: of `values`.
        x: what was quantized, any float dtype.
        values: fake-quantized.
        mask: 1 where `x` was inside the range, else 0.
        scale: broadcastable to `x`; so is the result.
        factor: on the gradient.
    """
    slope = values.float() - x.float() * mask  # times 1/s
    return slope.mul_(grad).sum_to_size(scale.shape).div(scale).mul_(factor)


def lsq_factor(values: int, scales: int, quant_max: int) -> float:
    """LSQ's gradient scale `1 / sqrt(numel p)` (Esser 2019, arXiv 1902.08153, 2.2).

    Args:
        values: of the tensor.
        scales: that share them.
        quant_max: largest level `p`.
    """
    return (max(values, 1) / scales * quant_max) ** -0.5
