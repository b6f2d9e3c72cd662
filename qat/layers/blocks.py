"""Arithmetic of ONNX Runtime's `MatMulNBits` with int8 compute: activations in blocks, each with a scale of its own.

Every row of the input is cut into blocks along the reduced dimension; a block is quantized on the fly to symmetric
signed 8 bits by its largest magnitude. Sums within a block are whole numbers and exact; blocks add up in float.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.layers.quantizer import Quantizer
from qat.numerics import fused
from qat.numerics.traced import is_compiled

BLOCK_SIZES = (16, 32, 64, 128, 256)
LEVELS = 127
TINY = 2.0**-126


def block_size(columns: int) -> int:
    """The block size that stores a row of `columns` 4-bit weights with its float scales in the fewest bytes.

    >>> block_size(144), block_size(576), block_size(1024)
    (32, 64, 256)
    """
    return min(BLOCK_SIZES, key=lambda size: (-(-columns // size) * (size // 2 + 4), size))


def blocks_of(x: Tensor, size: int) -> Tensor:
    """`(..., I)` -> `(..., I / size, size)`, the last block filled with zeros."""
    missing = -x.shape[-1] % size
    return F.pad(x, (0, missing)).unflatten(-1, (-1, size))


def block_levels(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Levels `(..., blocks, size)` as floats, and their scales `(..., blocks, 1)`."""
    cut = blocks_of(x.float(), size)
    scale = cut.abs().amax(-1, keepdim=True).div_(LEVELS).clamp_(min=TINY)
    return cut.div(scale).round_(), scale


def fake_quantize_blocks(x: Tensor, size: int) -> Tensor:
    """`x` on its blocks' levels; the gradient passes straight through (nothing is clipped)."""
    dtype = fused.working_dtype(x) if fused.applies(x) else x.dtype
    work = blocks_operator if is_compiled() else quantize_blocks
    return fused.straight_through(x, work(x.detach(), size, dtype))


@torch.no_grad()
def quantize_blocks(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Rows `(..., I)` on their blocks' levels, of `dtype`."""
    if fused.applies(x):
        return fused.quantize_blocks(x.contiguous(), size, LEVELS, dtype)
    levels, scale = block_levels(x, size)
    return levels.mul_(scale).flatten(-2)[..., : x.shape[-1]].to(dtype)


@torch.library.custom_op("speech_qat::quantize_blocks", mutates_args=())
def blocks_operator(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """`quantize_blocks`, which compiled code does not look into."""
    return quantize_blocks(x, size, dtype).contiguous()


@blocks_operator.register_fake
def _(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)


def block_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, size: int) -> Tensor:
    """`(..., I)` times levels `(O, I)` -> `(..., O)`, as the kernel computes it.

    Args:
        x: float.
        weight: whole float32 `(O, I)`.
        weight_scale: `(O,)`.
        size: of a block.
    """
    levels, scale = block_levels(x.reshape(-1, x.shape[-1]), size)
    sums = torch.einsum("nbk,obk->bno", levels, blocks_of(weight, size))
    out = sums.mul_(scale.transpose(0, 1)).sum(0).mul_(weight_scale)
    return out.reshape(*x.shape[:-1], -1)


class BlockQuantizer(Quantizer):
    """Quantizes rows of `(..., I)` in blocks, each to symmetric signed 8 bits; it has no range to calibrate.

    Args:
        columns: `I`.
    """

    def __init__(self, columns: int) -> None:
        super().__init__(-LEVELS, LEVELS)
        self.size = block_size(columns)
        self.calibrated.fill_(1)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """`x` on its blocks' levels."""
        return fake_quantize_blocks(x, self.size)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels `(..., blocks, size)`, scales and zero points (none) `(..., blocks, 1)`."""
        levels, scale = block_levels(x, self.size)
        return levels, scale, torch.zeros_like(scale)

    def linear(self, x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
        """`(..., I)` -> `(..., O)` as `MatMulNBits` computes: whole-number sums per block, float sums of the blocks."""
        out = block_linear(x.float(), weight, weight_scale, self.size)
        return out if bias is None else out.add_(bias)
