"""The arithmetic of fake quantization as vectorised operations on pieces that stay in the cache.

PyTorch's own CPU kernel for it is scalar code. Comparing into a float and casting that to int8 is several times
faster than a boolean comparison there, and so is multiplying by an int8 mask in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qat.numerics.rounding import NOISE_STEP

PIECE = 1 << 16  # values worked on at a time

Piece = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]


def quantize_dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int,
    high: int,
    noise: Tensor | None = None,
    masked: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Fake-quantized `x` in float32, and which values were inside the range.

    Args:
        x: float32, any shape.
        scale: broadcastable to `x`: one value, one a row, or any other.
        zero_point: like `scale`; None is zero.
        low: smallest level.
        high: largest level.
        noise: like `x`, float in [0, 1) or the int16 of `noise_bits`; None rounds to nearest.
        masked: make the mask (int8, 1 inside); else it is None.
    """
    if not x.permute(memory_axes(x)).is_contiguous():
        x = x.contiguous()
    out = torch.empty_like(x)
    mask = torch.empty_like(x, dtype=torch.int8) if masked else None
    for piece in pieces(x, scale, zero_point, noise, out, mask):
        work(piece, low, high)
    return out, mask


def work(piece: Piece, low: int, high: int) -> None:
    """Fill the output and mask of one piece."""
    x, scale, zero_point, noise, out, mask = piece
    levels = out if mask is None else torch.empty_like(out)
    torch.mul(x, scale.reciprocal(), out=levels)
    if noise is None:
        levels.round_()
    elif noise.dtype == torch.int16:
        levels.add_(noise, alpha=NOISE_STEP).add_(0.5).floor_()
    else:
        levels.add_(noise).floor_()
    if zero_point is not None:
        levels.add_(zero_point)
    if mask is None:
        out.clamp_(low, high)
    else:
        torch.clamp(levels, low, high, out=out)
        mask.copy_(levels.eq_(out))
    if zero_point is not None:
        out.sub_(zero_point)
    out.mul_(scale)


def pieces(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    noise: Tensor | None,
    out: Tensor,
    mask: Tensor | None,
) -> Iterator[Piece]:
    """Views of all arguments that go together, of about `PIECE` values each; everything at once where small."""
    if x.numel() <= PIECE or x.is_cuda:
        yield x, scale, zero_point, noise, out, mask
        return
    if scale.numel() == 1:
        axes, total = memory_axes(x), x.numel()
        scale, zero_point = scale.reshape(1), None if zero_point is None else zero_point.reshape(1)
        flat = [None if item is None else item.permute(axes).reshape(-1) for item in (x, noise, out, mask)]
        for x_part, noise_part, out_part, mask_part in zip(
            *(split(item, PIECE, total) for item in flat), strict=True
        ):
            yield x_part, scale, zero_point, noise_part, out_part, mask_part
    elif scale.numel() == x.shape[0] == scale.shape[0]:
        rows = max(1, PIECE // x[0].numel())
        items = (x, scale, zero_point, noise, out, mask)
        yield from zip(*(split(item, rows, x.shape[0]) for item in items), strict=True)
    else:
        yield x, scale, zero_point, noise, out, mask


def split(item: Tensor | None, size: int, total: int) -> tuple[Any, ...]:
    """`item.split(size)`; as many Nones for None."""
    return (None,) * -(-total // size) if item is None else item.split(size)


def memory_axes(x: Tensor) -> list[int]:
    """Order of the dimensions from the slowest to the fastest in memory."""
    if x.is_contiguous():
        return list(range(x.ndim))
    strides = x.stride()
    return sorted(range(x.ndim), key=lambda axis: -strides[axis])
