"""Fake quantization as vectorised operations on chunks that stay in the cache.

PyTorch's own CPU kernel for it is scalar code. On a CPU, comparing into a float and casting that to int8 is several
times faster than a boolean comparison, and so is multiplying by an int8 mask in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qat.numerics.rounding import NOISE_STEP, NoiseKey

CHUNK_SIZE = 1 << 16  # values quantized at a time; their noise is drawn with them


class Chunk(NamedTuple):
    """Views of the inputs and outputs of `quantize_dequantize` that belong together.

    Attributes:
        x: values to quantize.
        scale: broadcastable to `x`.
        zero_point: like `scale`; None is zero.
        noise: like `x`; None rounds to nearest.
        out: receives the fake-quantized values.
        mask: receives int8 1 where `x` was inside the range; None if not wanted.
    """

    x: Tensor
    scale: Tensor
    zero_point: Tensor | None
    noise: Tensor | None
    out: Tensor
    mask: Tensor | None


def quantize_dequantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int,
    high: int,
    noise: Tensor | NoiseKey | None = None,
    masked: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Fake-quantizes `x`.

    Args:
        x: float32, any shape.
        scale: broadcastable to `x`: one value, one per row, or any other.
        zero_point: like `scale`; None is zero.
        low: smallest level.
        high: largest level.
        noise: a key; or like `x`, float in [0, 1) or the int16 of `NoiseKey.bits`; None rounds to nearest.
        masked: also return the mask (int8, 1 inside the range); otherwise it is None.

    Returns:
        The fake-quantized values, float32, and which were inside the range.
    """
    if not x.permute(memory_axes(x)).is_contiguous():
        x = x.contiguous()
    out = torch.empty_like(x)
    mask = torch.empty_like(x, dtype=torch.int8) if masked else None
    key = noise if isinstance(noise, NoiseKey) else None
    if key is not None and not (x.is_contiguous() and x.device.type == "cpu"):
        noise, key = key.bits(x.shape, x.device), None  # chunks go through memory, noise through rows
    drawn = None if isinstance(noise, NoiseKey) else noise
    start = 0
    for chunk in chunks(Chunk(x, scale, zero_point, drawn, out, mask)):
        if key is not None:
            count = chunk.x.numel()
            chunk = chunk._replace(noise=key.part(start, count).view(chunk.x.shape))
            start += count
        quantize_chunk_(chunk, low, high)
    return out, mask


def quantize_chunk_(chunk: Chunk, low: int, high: int) -> None:
    """Fills `out` and `mask` of a chunk, in place."""
    x, scale, zero_point, noise, out, mask = chunk
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


def chunks(whole: Chunk) -> Iterator[Chunk]:
    """Chunks of about `CHUNK_SIZE` values each that make up the whole; the whole itself where it is small."""
    x, scale, zero_point, noise, out, mask = whole
    if x.numel() <= CHUNK_SIZE or x.is_cuda:
        yield whole
    elif scale.numel() == 1:
        axes, total = memory_axes(x), x.numel()
        scale, zero_point = scale.reshape(1), None if zero_point is None else zero_point.reshape(1)
        flat = [None if item is None else item.permute(axes).reshape(-1) for item in (x, noise, out, mask)]
        for x_part, noise_part, out_part, mask_part in zip(
            *(split(item, CHUNK_SIZE, total) for item in flat), strict=True
        ):
            yield Chunk(x_part, scale, zero_point, noise_part, out_part, mask_part)
    elif scale.numel() == x.shape[0] == scale.shape[0]:
        rows = max(1, CHUNK_SIZE // x[0].numel())
        for parts in zip(*(split(item, rows, x.shape[0]) for item in whole), strict=True):
            yield Chunk(*parts)
    else:
        yield whole


def split(item: Tensor | None, size: int, total: int) -> tuple[Any, ...]:
    """`item.split(size)`; for None, as many times None."""
    return (None,) * -(-total // size) if item is None else item.split(size)


def memory_axes(x: Tensor) -> list[int]:
    """Order of the dimensions from the slowest to the fastest in memory."""
    if x.is_contiguous():
        return list(range(x.ndim))
    strides = x.stride()
    return sorted(range(x.ndim), key=lambda axis: -strides[axis])
