"""Fake quantization by Triton kernels: one launch forward, one backward, noise made inside.

On a GPU with Triton (PyTorch's CUDA build brings it) all quantizers go this way; elsewhere the plain path of
`affine.py` gives the same bits. Results have autocast's dtype where autocast is on, so that the product that follows
casts nothing; the arithmetic is float32.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qat.numerics.launch import launch
from qat.numerics.rounding import NoiseKey

# values and warps of one program: 8 values a thread, read and written 16 bytes at a time
BLOCK, WARPS = 2048, 8
ROWS, WIDTH = 8, 256  # rows of a program, and their values at a time
FORCED = False  # also on a CPU: tests run the kernels in Triton's interpreter


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


@cache
def kernels() -> ModuleType:
    """The kernels; imported where they are first needed, as Triton takes a second to import."""
    from qat.numerics import triton_kernels

    return triton_kernels


def applies(x: Tensor) -> bool:
    """Whether `x` lies where the kernels run."""
    return (x.is_cuda or FORCED) and has_triton()


def working_dtype(x: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on for the device of `x`, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def fits(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> bool:
    """Whether the kernels take such scales: one for all values, or one for each row `x[i]` that is not learned."""
    count = scale.numel()
    if not x.is_floating_point() or not scale.is_contiguous() or scale.dtype != torch.float32:
        return False
    if zero_point is not None and (zero_point.numel() != count or not zero_point.is_contiguous()):
        return False
    rows = x.ndim > 0 and count == x.shape[0]
    rows = rows and (axis == 0 if axis is not None else scale.ndim > 0 and count == scale.shape[0])
    return count == 1 or (rows and not scale.requires_grad)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int,
    high: int,
    key: NoiseKey | None,
    grad_factor: float | None,
    clips: bool,
) -> Tensor:
    """`affine.fake_quantize` where `fits` says so; of `working_dtype`."""
    x, learned = x.contiguous(), scale.requires_grad
    if torch.is_grad_enabled() and (x.requires_grad or learned):
        return FusedQuantize.apply(x, scale, zero_point, low, high, key, grad_factor, clips)
    dtype = working_dtype(x)
    return quantize_values(x, scale, zero_point, low, high, key, learned, False, dtype)[0]


def seeds(key: NoiseKey | None) -> tuple[int, int, int]:
    """What a kernel takes of a key; zeros where it rounds to nearest."""
    return (0, 0, 0) if key is None else (*key.halves, int(key.stream))


def programs_of(count: int) -> int:
    """Programs for `count` values."""
    return -(-count // BLOCK)


def quantize_values(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int,
    high: int,
    key: NoiseKey | None,
    learned: bool,
    masked: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Fake-quantized values of `dtype`, and which were inside the range, eight to a byte (empty if not `masked`).

    Args:
        x: contiguous, any shape.
        scale: float32, one for all values, or one for each row `x[i]`.
        zero_point: of the shape of `scale`; None is zero.
        low: smallest level.
        high: largest level.
        key: of the noise; None rounds to nearest.
        learned: `scale` may be negative: its magnitude counts.
        masked: whether the mask is wanted.
        dtype: of the values.
    """
    out, count = torch.empty_like(x, dtype=dtype), x.numel()
    mask = torch.empty((count + 7) // 8 if masked else 0, dtype=torch.uint8, device=x.device)
    if not count:
        return out, mask
    rows = scale.numel()
    launch(
        kernels().values_forward, programs_of(count), x,
        x, scale, scale if zero_point is None else zero_point, out, mask, count, count // rows,
        float(low), float(high), *seeds(key),
        PER_ROW=rows > 1, ZERO=zero_point is not None, STOCHASTIC=key is not None, LEARNED=learned,
        MASKED=masked, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return out, mask


def masked_gradient(grad: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`grad` where the mask's bit is set, else zero, of `dtype`."""
    grad = grad.contiguous()
    out, count = torch.empty_like(grad, dtype=dtype), grad.numel()
    if count:
        launch(
            kernels().values_backward, programs_of(count), grad,
            grad, mask, out, count, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return out


def learned_gradients(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int,
    high: int,
    key: NoiseKey | None,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of `x`, like it, and of its one learned scale `(1,)` (LSQ, arXiv 1902.08153)."""
    grad, count = grad.contiguous(), x.numel()
    out, programs = torch.empty_like(x), max(programs_of(count), 1)
    partial = torch.empty(programs, dtype=torch.float32, device=x.device)
    launch(
        kernels().learned_backward, programs, x,
        grad, x, scale, scale if zero_point is None else zero_point, out, partial, count,
        float(low), float(high), factor, *seeds(key),
        ZERO=zero_point is not None, STOCHASTIC=key is not None, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return out, partial.sum().view(scale.shape)


class FusedQuantize(torch.autograd.Function):
    """`quantize_values` with its gradient; x is contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        low: int,
        high: int,
        key: NoiseKey | None,
        grad_factor: float | None,
        clips: bool,
    ) -> Tensor:
        """Saves one bit a value; `x` itself where the scale is learned; nothing where nothing is clipped."""
        learned = scale.requires_grad
        masked = clips and not learned and ctx.needs_input_grad[0]
        out, mask = quantize_values(x, scale, zero_point, low, high, key, learned, masked, working_dtype(x))
        ctx.dtype, ctx.learned = x.dtype, learned
        if learned:
            ctx.save_for_backward(x, scale, zero_point)
            ctx.rest = (low, high, key, grad_factor)
        elif masked:
            ctx.save_for_backward(mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """One launch; a second adds up what programs found of a learned scale."""
        grad_x: Tensor | None = None
        grad_scale: Tensor | None = None
        if ctx.learned:
            grad_x, grad_scale = learned_gradients(grads[0], *ctx.saved_tensors, *ctx.rest)
        elif ctx.needs_input_grad[0]:
            saved = ctx.saved_tensors
            grad_x = masked_gradient(grads[0], saved[0], ctx.dtype) if saved else grads[0].to(ctx.dtype)
        return grad_x, grad_scale, None, None, None, None, None, None


def quantize_frames(x: Tensor, levels: int, key: NoiseKey | None, dtype: torch.dtype) -> Tensor:
    """Rows `(..., I)`, contiguous, each on `levels + 1` levels of its own range, of `dtype`."""
    out = torch.empty_like(x, dtype=dtype)
    if x.numel():
        rows = x.numel() // x.shape[-1]
        launch(
            kernels().frames_forward, -(-rows // ROWS), x,
            x, out, rows, x.shape[-1], float(levels), *seeds(key),
            STOCHASTIC=key is not None, ROWS=ROWS, WIDTH=WIDTH,
        )  # fmt: skip
    return out


def quantize_blocks(x: Tensor, size: int, levels: int, dtype: torch.dtype) -> Tensor:
    """Rows `(..., I)`, contiguous, in blocks of `size`, each by its largest magnitude, of `dtype`."""
    out = torch.empty_like(x, dtype=dtype)
    if x.numel():
        each, rows = -(-x.shape[-1] // size), max(BLOCK // size, 1)
        count = x.numel() // x.shape[-1] * each
        launch(
            kernels().blocks_forward, -(-count // rows), x,
            x, out, count, x.shape[-1], each, float(levels), SIZE=size, ROWS=rows,
        )  # fmt: skip
    return out


class StraightThrough(torch.autograd.Function):
    """Takes the second tensor's values and gives the first its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        """`values`, as they are."""
        ctx.dtype = x.dtype
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Untouched but for the dtype."""
        return grads[0].to(ctx.dtype), None


def straight_through(x: Tensor, values: Tensor) -> Tensor:
    """`values`, with the gradient of `x` where it needs one."""
    return StraightThrough.apply(x, values) if torch.is_grad_enabled() and x.requires_grad else values
