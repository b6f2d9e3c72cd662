"""GroupNorm whose statistics leave padding out."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from qat.layers.masking import frame_mask, to_device_of

ROWS = 4  # that share the frames of a sum of squares


class MaskedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with one channel per group, on valid frames only.

    Where nothing is padded it computes what `nn.GroupNorm` does.
    """

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> Self:
        """One on the parameters of `norm`.

        Raises:
            ValueError: it has several channels in a group, or no weight.
        """
        if norm.num_groups != norm.num_channels or not norm.affine:
            raise ValueError(f"{norm}: must have one channel per group, and weights")
        made = cls(norm.num_groups, norm.num_channels, norm.eps)
        made.weight, made.bias = norm.weight, norm.bias
        return made

    def forward(self, x: Tensor, frames: Tensor | None = None) -> Tensor:
        """Normalise over time.

        Args:
            x: `(B, C, T)`.
            frames: valid frames `(B,)`; None: all are.
        """
        if frames is None:
            return super().forward(x)
        # Sums over time as products with the mask, as an exported file has them. A product of one row adds frame after
        # frame, one of several rows by blocks, which loses a tenth as much of a square.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            by_time = x.transpose(1, 2)
            valid = frame_mask(frames, x, axis=2).unsqueeze(1)
            count = to_device_of(x, frames).float()[:, None, None]
            mean = (valid.float() @ by_time).transpose(1, 2) / count
            square = ((valid & turns(x)).float() @ by_time.square()).sum(1).unsqueeze(2) / count
            variance = (square - mean.square()).clamp(min=0.0)
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return x * scale + (self.bias[:, None] - mean * scale)


def turns(x: Tensor) -> Tensor:
    """Boolean `(ROWS, T)`: which frames of `x (B, C, T)` each row of a sum takes."""
    row = torch.arange(ROWS, device=x.device).unsqueeze(1)
    return torch.arange(x.shape[-1], device=x.device) % ROWS == row


def mask_group_norms_(model: nn.Module) -> None:
    """Put a `MaskedGroupNorm` in place of each GroupNorm below `model`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.GroupNorm:
                setattr(parent, name, MaskedGroupNorm.of(child))
