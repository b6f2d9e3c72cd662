"""Rounding, and the counter-keyed noise of stochastic rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.system.seeds import counter_seed

# Resolution of the noise: the mean of stochastic rounding is exact to this share of a step.
NOISE_STEP = 2.0**-16


def round_nearest(x: Tensor) -> Tensor:
    """Round half to even, as integer kernels do.

    >>> round_nearest(torch.tensor([0.5, 1.5, -0.5])).tolist()
    [0.0, 2.0, -0.0]
    """
    return torch.round(x)


def round_stochastic(x: Tensor, noise: Tensor) -> Tensor:
    """Round up with probability equal to the fractional part: `floor(x + u)` (Gupta 2015, arXiv 1502.02551).

    Args:
        x: any shape, in units of the step.
        noise: `u` uniform in [0, 1), broadcastable to `x`.

    >>> round_stochastic(torch.tensor([0.25, -1.0]), torch.tensor([0.8, 0.8])).tolist()
    [1.0, -1.0]
    """
    return torch.floor(x + noise)


def noise_bits(shape: torch.Size, key: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform 16-bit noise of `shape` that depends on `key` and the device type only.

    Each 64-bit draw gives four values: about four times cheaper than uniform floats, and exact to 2^-16 of a step.

    Returns:
        int16 `r` in [-2^15, 2^15); the noise in [0, 1) is `(r + 2^15) / 2^16`.
    """
    generator = torch.Generator(device).manual_seed(counter_seed(key))
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:count].view(shape)


def uniform_noise(
    shape: torch.Size | tuple[int, ...], key: tuple[int, ...], device: torch.device | str
) -> Tensor:
    """Uniform float32 noise in [0, 1) on a grid of 2^-16, drawn from a counter key.

    The same key gives the same bits at any time, so that a resumed or recomputed step repeats its rounding.

    Args:
        shape: of the result.
        key: for example `(seed, step, layer index, rank)`.
        device: where to draw; different device types draw different bits.
    """
    bits = noise_bits(torch.Size(shape), key, torch.device(device))
    return bits.to(torch.float32).add_(2.0**15).mul_(NOISE_STEP)
