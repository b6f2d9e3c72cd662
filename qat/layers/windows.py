"""A convolution as a matrix product: what each output position multiplies, and with what."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.layers.sampling import drawn


def padding_of(layer: nn.Conv1d | nn.Conv2d) -> tuple[list[int], str]:
    """A convolution's padding as `F.pad` takes it: both ends of each axis, the last axis first, and the mode."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return list(layer._reversed_padding_repeated_twice), mode


def padded(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """The input with the convolution's padding around it."""
    sides, mode = padding_of(layer)
    return F.pad(x, sides, mode=mode) if any(sides) else x


def windows_of(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """What each output position of a convolution without groups multiplies: `(B, C, T)` -> `(B, T', K C)`."""
    x = padded(layer, x).transpose(1, 2)
    (count,), (step,), (stride,) = layer.kernel_size, layer.dilation, layer.stride
    rest = (count - 1) * step
    taps = [x[:, tap * step : x.shape[1] - (rest - tap * step) : stride] for tap in range(count)]
    return torch.cat(taps, dim=2) if count > 1 else taps[0]


def matrix_of(weight: Tensor) -> Tensor:
    """A convolution's weight `(O, C, K)` as the `(O, K C)` that multiplies `windows_of`; a matrix as it is."""
    return weight.transpose(1, 2).flatten(1) if weight.ndim == 3 else weight


def sampled_windows(layer: nn.Conv1d | nn.Conv2d, x: Tensor, generator: torch.Generator) -> Tensor:
    """Windows at some positions of one utterance `(1, C, ...)`: `(G, N, C / G K)`, ordered as the weight.

    Args:
        layer: may have groups.
        x: its input.
        generator: draws the positions where there are many.
    """
    x = padded(layer, x)
    spatial = x.ndim - 2
    for axis in range(spatial):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, span, layer.stride[axis])[..., :: layer.dilation[axis]]
    # (1, C, positions..., kernel...): pick positions before anything is copied
    places = x.shape[2 : 2 + spatial]
    chosen = drawn(math.prod(places), generator)
    index = [part.to(x.device) for part in torch.unravel_index(chosen, places)]
    picked = x[0].movedim(0, spatial)[tuple(index)]  # (N, C, kernel...)
    return picked.reshape(len(chosen), layer.groups, -1).transpose(0, 1).contiguous()
