"""Fake quantization of many weights in one launch, and the gradient of each.

Weights do not wait for activations: all of a model's are quantized together, at the start of a step. Where their ranges
cover them the gradient passes untouched, without a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qat.numerics.fused import ROWS, WIDTH, kernels, seeds
from qat.numerics.launch import launch
from qat.numerics.rounding import NoiseKey
from qat.numerics.scales import lsq_factor

ALIGNED = 64  # values: each weight starts where a matrix product likes it


@dataclass(frozen=True)
class WeightMode:
    """How a weight is quantized; weights of one mode share a launch.

    Args:
        low: smallest level, counted in whole steps.
        high: largest.
        offset: of all levels, in steps: half a step, or 0.
        share: of the values that are quantized (Quant-Noise), in (0, 1]; the others stay float.
        covered: no value is clipped, so the gradient of the weight is that of the result.
        follows: the scale is taken from each row's largest magnitude, and stored.
        stochastic: rounding; else to nearest.
        learned: the scale is a parameter: its magnitude counts.
        dtype: of the result.
    """

    low: int
    high: int
    offset: float
    share: float
    covered: bool
    follows: bool
    stochastic: bool
    learned: bool
    dtype: torch.dtype

    @property
    def passes(self) -> bool:
        """Whether the gradient of the weight is that of the result, and there is none of the scale."""
        return self.covered and not self.learned

    @property
    def draws(self) -> bool:
        """Whether the result depends on noise."""
        return self.stochastic or self.share < 1


def least_of(share: float) -> int:
    """A value is quantized where its int16 noise lies below this: with a probability of `share`."""
    return round(share * 2**16) - 2**15


def programs_of(weight: Tensor) -> int:
    """Programs for a weight `(C, ...)`."""
    return -(-len(weight) // ROWS)


class Table:
    """Where the rows of some weights lie, in the memory of their device.

    Args:
        weights: float32, contiguous, `(C, ...)` each.
        scales: float32, `(C,)` or `(1,)` each.
        streams: of their noise.
    """

    def __init__(self, weights: Sequence[Tensor], scales: Sequence[Tensor], streams: Sequence[int]) -> None:
        self.held = (*weights, *scales)  # the kernel reads their memory
        self.shapes = [weight.shape for weight in weights]
        self.starts: list[int] = []
        programs, end, lines = 0, 0, []
        for weight, scale, stream in zip(weights, scales, streams, strict=True):
            self.starts.append(end)
            inner, step = weight.numel() // len(weight), int(scale.numel() > 1)
            lines.append(
                [weight.data_ptr(), scale.data_ptr(), end, programs, inner, step, stream, len(weight)]
            )
            programs += programs_of(weight)
            end += -(-weight.numel() // ALIGNED) * ALIGNED
        self.programs, self.size = programs, end
        device = weights[0].device
        counts = torch.tensor([programs_of(weight) for weight in weights], device="cpu")
        owner = torch.arange(len(lines), dtype=torch.int32, device="cpu").repeat_interleave(counts)
        self.lines, self.owner = torch.tensor(lines, device=device), owner.to(device)

    def quantize(self, mode: WeightMode, key: NoiseKey) -> list[Tensor]:
        """Fake-quantized weights, all in one piece of memory; one launch.

        Args:
            mode: common to all.
            key: of the step; its stream does not count.
        """
        out = torch.empty(self.size, dtype=mode.dtype, device=self.lines.device)
        launch(
            kernels().weights_forward, self.programs, out,
            self.lines, self.owner, out, float(mode.low), float(mode.high), mode.offset,
            least_of(mode.share),
            *key.halves, FOLLOW=mode.follows, STOCHASTIC=mode.stochastic, HALF=mode.offset != 0,
            SELECT=mode.share < 1, LEARNED=mode.learned, ROWS=ROWS, WIDTH=WIDTH,
        )  # fmt: skip
        return [
            out[start : start + shape.numel()].view(shape)
            for start, shape in zip(self.starts, self.shapes, strict=True)
        ]


def weight_gradients(
    grad: Tensor, weight: Tensor, scale: Tensor, mode: WeightMode, key: NoiseKey
) -> tuple[Tensor, Tensor | None]:
    """Gradients of a weight and of its scale (None where it is not learned), computed anew from the weight.

    Args:
        grad: of the quantized weight.
        weight: float32, contiguous.
        scale: `(C,)` or `(1,)`.
        mode: how it was quantized.
        key: of the noise.
    """
    grad, out, rows = grad.contiguous(), torch.empty_like(weight), len(weight)
    found = torch.empty(rows if mode.learned else 0, dtype=torch.float32, device=weight.device)
    factor = lsq_factor(weight.numel(), scale.numel(), mode.high)
    launch(
        kernels().weight_backward, programs_of(weight), weight,
        grad, weight, scale, out, found, rows, weight.numel() // rows, int(scale.numel() > 1),
        float(mode.low), float(mode.high), mode.offset, least_of(mode.share), factor, *seeds(key),
        STOCHASTIC=mode.stochastic, SELECT=mode.share < 1, LEARNED=mode.learned, ROWS=ROWS, WIDTH=WIDTH,
    )  # fmt: skip
    if not mode.learned:
        return out, None
    return out, found if scale.numel() > 1 else found.sum().view(scale.shape)


class FusedWeight(torch.autograd.Function):
    """Takes the values that were prepared for a weight; gives it and its learned scale their gradients."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scale: Tensor, values: Tensor, mode: WeightMode, key: NoiseKey
    ) -> Tensor:
        """`values`, as they are."""
        ctx.save_for_backward(weight, scale)
        ctx.mode, ctx.key = mode, key
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """One launch."""
        weight, scale = ctx.saved_tensors
        grad, found = weight_gradients(grads[0], weight, scale, ctx.mode, ctx.key)
        return grad, found, None, None, None
