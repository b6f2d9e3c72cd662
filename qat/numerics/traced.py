"""Fake quantization as an operator that `torch.compile` traces through without looking inside.

Seed and stream of the noise come in tensors: numbers that change with every step or layer would be compiled into the
code. On a GPU the operator launches the kernels of `fused.py`; elsewhere it computes as `kernel.py` does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat.numerics import fused
from qat.numerics.kernel import quantize_dequantize
from qat.numerics.rounding import NoiseKey
from qat.numerics.scales import SCALE_FLOOR, both_along, lsq_factor, magnitude, scale_gradient


def is_compiled() -> bool:
    """Whether `torch.compile` is tracing this code. An export traces as well, without Dynamo: it is to see inside.

    PyTorch 2.11 calls whatever Dynamo traces an export (`is_exporting`).
    """
    return torch.compiler.is_dynamo_compiling()


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int,
    high: int,
    axis: int | None,
    noise: NoiseKey | None,
    grad_factor: float | None,
    clips: bool,
) -> Tensor:
    """As `affine.fake_quantize`, inside compiled code."""
    seed, stream = (None, None) if noise is None else noise
    assert not isinstance(seed, int) and not isinstance(stream, int)
    learned = scale.requires_grad
    masked = clips and not learned and x.requires_grad and torch.is_grad_enabled()
    where = (zero_point, seed, stream, low, high, axis)
    return quantize_operator(x, scale, *where, grad_factor, learned, masked, fused.working_dtype(x))[0]


def key_of(seed: Tensor | None, stream: Tensor | None) -> NoiseKey | None:
    """The key that seed and stream in tensors stand for."""
    return None if seed is None or stream is None else NoiseKey(int(seed), int(stream))


@torch.library.custom_op("speech_qat::fake_quantize", mutates_args=())
def quantize_operator(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    seed: Tensor | None,
    stream: Tensor | None,
    low: int,
    high: int,
    axis: int | None,
    grad_factor: float | None,
    learned: bool,
    masked: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Values of `dtype`, and the mask of those inside the range: bits from the kernels, else int8 like `x`."""
    key, levels = key_of(seed, stream), (low, high)
    if fused.applies(x) and fused.fits(x, scale, zero_point, axis):
        x = x.contiguous()
        return fused.quantize_values(x, scale, zero_point, *levels, key, learned, masked, dtype)
    steps, zeros = both_along(magnitude(scale) if learned else scale, zero_point, x.ndim, axis)
    values, mask = quantize_dequantize(x.detach().float(), steps, zeros, *levels, key, masked)
    values = values.contiguous().to(dtype)
    empty = torch.empty(0, dtype=torch.int8, device=x.device)
    return values, empty if mask is None else mask.contiguous()


@quantize_operator.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    axis, _, _, masked, dtype = rest[-5:]
    values = torch.empty(x.shape, dtype=dtype, device=x.device)
    if fused.applies(x) and fused.fits(x, scale, zero_point, axis):
        return values, torch.empty((x.numel() + 7) // 8 if masked else 0, dtype=torch.uint8, device=x.device)
    return values, torch.empty(x.shape if masked else 0, dtype=torch.int8, device=x.device)


@torch.library.custom_op("speech_qat::masked_gradient", mutates_args=())
def gradient_operator(grad: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`grad` inside the range, of `dtype`."""
    if mask.dtype == torch.uint8:
        return fused.masked_gradient(grad, mask, dtype)
    return (grad * mask).to(dtype)


@gradient_operator.register_fake
def _(grad: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(grad.shape, dtype=dtype, device=grad.device)


@torch.library.custom_op("speech_qat::learned_gradients", mutates_args=())
def learned_operator(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    seed: Tensor | None,
    stream: Tensor | None,
    low: int,
    high: int,
    axis: int | None,
    grad_factor: float | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the values and of the learned scale."""
    key, levels = key_of(seed, stream), (low, high)
    factor = lsq_factor(x.numel(), scale.numel(), high) if grad_factor is None else grad_factor
    if fused.applies(x) and fused.fits(x, scale, zero_point, axis) and scale.numel() == 1:
        return fused.learned_gradients(grad, x.contiguous(), scale, zero_point, *levels, key, factor)
    steps, zeros = both_along(magnitude(scale), zero_point, x.ndim, axis)
    values, mask = quantize_dequantize(x.detach().float(), steps, zeros, *levels, key, True)
    assert mask is not None
    found = scale_gradient(grad, x, values, mask, steps, factor).view(scale.shape)
    return (grad * mask).to(x.dtype), found * scale.sign() * (scale.abs() >= SCALE_FLOOR)


@learned_operator.register_fake
def _(grad: Tensor, x: Tensor, scale: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(scale)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, scale, zero_point, seed, stream, *numbers, grad_factor, learned, masked, dtype = inputs
    ctx.dtype, ctx.learned, ctx.masked = x.dtype, learned, masked
    ctx.numbers = (*numbers, grad_factor)
    if learned:
        ctx.save_for_backward(x, scale, zero_point, seed, stream)
    elif masked:
        ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad_scale = None
    if ctx.learned:
        grad_x, grad_scale = learned_operator(grad, *ctx.saved_tensors, *ctx.numbers)
    elif ctx.masked:
        grad_x = gradient_operator(grad, ctx.saved_tensors[0], ctx.dtype)
    else:
        grad_x = grad.to(ctx.dtype)
    return grad_x, grad_scale, *[None] * 10


quantize_operator.register_autograd(_backward, setup_context=_setup)
