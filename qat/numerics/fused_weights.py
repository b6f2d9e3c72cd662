"""Fake quantization of many weights in one launch, and their gradients in a few.

Weights do not wait for activations: all of a model's are quantized together, at the start of a step. Where their ranges
cover them the gradient passes untouched, without a kernel; else a launch takes the gradients of some weights together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from qat.numerics.fused import ROWS, WIDTH, kernels
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


class Table:
    """Where the rows of some weights lie, in the memory of their device.

    Args:
        weights: float32, contiguous, `(C, ...)` each.
        scales: float32, `(C,)` or `(1,)` each.
        streams: of their noise.
    """

    def __init__(self, weights: Sequence[Tensor], scales: Sequence[Tensor], streams: Sequence[int]) -> None:
        self.weights, self.scales = weights, scales  # the kernels read their memory
        self.shapes = [weight.shape for weight in weights]
        self.starts, self.rows, self.programs, lines = [0], [0], [0], []  # of each weight, and the ends
        for weight, scale, stream in zip(weights, scales, streams, strict=True):
            inner, step = weight.numel() // len(weight), int(scale.numel() > 1)
            start, row, program = self.starts[-1], self.rows[-1], self.programs[-1]
            place = [weight.data_ptr(), scale.data_ptr(), start, program]
            lines.append([*place, inner, step, stream, len(weight), row])
            self.starts.append(start + -(-weight.numel() // ALIGNED) * ALIGNED)
            self.rows.append(row + len(weight))
            self.programs.append(program + -(-len(weight) // ROWS))
        device = weights[0].device
        counts = torch.tensor(self.programs, device="cpu").diff()
        owner = torch.arange(len(lines), dtype=torch.int32, device="cpu").repeat_interleave(counts)
        self.lines, self.owner = torch.tensor(lines, device=device), owner.to(device)
        self.factors: dict[int, Tensor] = {}

    def quantize(self, mode: WeightMode, key: NoiseKey) -> list[Tensor]:
        """Fake-quantized weights, all in one piece of memory; one launch.

        Args:
            mode: common to all.
            key: of the step; its stream does not count.
        """
        out = torch.empty(self.starts[-1], dtype=mode.dtype, device=self.lines.device)
        launch(
            kernels().weights_forward, self.programs[-1], out,
            self.lines, self.owner, out, float(mode.low), float(mode.high), mode.offset,
            least_of(mode.share),
            *key.halves, FOLLOW=mode.follows, STOCHASTIC=mode.stochastic, HALF=mode.offset != 0,
            SELECT=mode.share < 1, LEARNED=mode.learned, ROWS=ROWS, WIDTH=WIDTH,
        )  # fmt: skip
        return self.parts(out, 0, len(self.shapes))

    def parts(self, values: Tensor, first: int, end: int) -> list[Tensor]:
        """What lies in `values` of each of the weights `first` to `end`."""
        base = self.starts[first]
        return [
            values[start - base : start - base + shape.numel()].view(shape)
            for start, shape in zip(self.starts[first:end], self.shapes[first:end], strict=True)
        ]

    def factors_of(self, high: int) -> Tensor:
        """LSQ's factor of each weight's scale, float32 `(weights,)`."""
        if high not in self.factors:
            pairs = zip(self.weights, self.scales, strict=True)
            found = [lsq_factor(weight.numel(), scale.numel(), high) for weight, scale in pairs]
            self.factors[high] = torch.tensor(found, dtype=torch.float32, device=self.lines.device)
        return self.factors[high]

    def gradients(
        self, grads: Sequence[Tensor | None], first: int, mode: WeightMode, key: NoiseKey
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Gradients of weights and of their scales (None where they are not learned), computed anew; one launch.

        Args:
            grads: of the quantized weights from the one numbered `first` on, of one dtype; None where there is none.
            first: number of the first.
            mode: how they were quantized.
            key: of the step.
        """
        end, device = first + len(grads), self.lines.device
        given = [None if grad is None else grad.contiguous() for grad in grads]
        like = next((grad for grad in given if grad is not None), None)
        if like is None:
            return [None] * len(grads), [None] * len(grads)
        pointers = [0] * len(self.shapes)
        pointers[first:end] = [0 if grad is None else grad.data_ptr() for grad in given]
        out = torch.empty(self.starts[end] - self.starts[first], device=device)
        rows = self.rows[end] - self.rows[first]
        found = torch.empty(rows if mode.learned else 0, device=device)
        launch(
            kernels().weights_backward, self.programs[end] - self.programs[first], out,
            self.lines, self.owner, self.factors_of(mode.high), addresses(pointers, device), like, out, found,
            self.programs[first], self.starts[first], self.rows[first],
            float(mode.low), float(mode.high), mode.offset, least_of(mode.share), *key.halves,
            STOCHASTIC=mode.stochastic, SELECT=mode.share < 1, LEARNED=mode.learned, ROWS=ROWS, WIDTH=WIDTH,
        )  # fmt: skip
        parts = self.parts(out, first, end)
        of_weights = [None if grad is None else part for grad, part in zip(given, parts, strict=True)]
        if not mode.learned:
            return of_weights, [None] * len(given)
        of_rows = found.split([len(weight) for weight in self.weights[first:end]])
        of_scales = [
            None if grad is None else own if scale.numel() > 1 else own.sum().view(scale.shape)
            for grad, own, scale in zip(given, of_rows, self.scales[first:end], strict=True)
        ]
        return of_weights, of_scales


def addresses(pointers: Sequence[int], device: torch.device) -> Tensor:
    """Addresses, int64, in the memory of a device; nothing waits for the copy."""
    found = torch.tensor(pointers, dtype=torch.int64, device="cpu")
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


class Chunk:
    """Some weights of a table whose gradients are computed in one launch, when the last of them has come.

    Args:
        table: of all.
        first: number of the first.
        values: quantized, of each.
        mode: how.
        key: of the step.
    """

    def __init__(
        self, table: Table, first: int, values: Sequence[Tensor], mode: WeightMode, key: NoiseKey
    ) -> None:
        self.table, self.first, self.values, self.mode, self.key = table, first, values, mode, key
        self.outputs: tuple[Tensor, ...] | None = None

    def with_gradient(self, number: int) -> Tensor:
        """Values of a weight of the table, with its gradient; those of one graph until a backward has come through."""
        if self.outputs is None:
            end = self.first + len(self.values)
            leaves = (*self.table.weights[self.first : end], *self.table.scales[self.first : end])
            self.outputs = FusedWeights.apply(ref(self), self.table, self.first, self.mode, self.key,
                                              *leaves, *self.values)  # fmt: skip
        return self.outputs[number - self.first]


class FusedWeights(torch.autograd.Function):
    """Takes the values that were prepared for weights; gives them and their learned scales their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        chunk: ref[Chunk],
        table: Table,
        first: int,
        mode: WeightMode,
        key: NoiseKey,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """The last third of the tensors, as they are.

        Nothing is saved for the backward but the table: a second batch may go backward through the same values.
        """
        count = len(tensors) // 3
        ctx.rest, ctx.versions = (chunk, table, first, mode, key), [item._version for item in tensors[:count]]
        ctx.set_materialize_grads(False)
        return tuple(values.view_as(values) for values in tensors[2 * count :])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """One launch."""
        chunk, table, first, mode, key = ctx.rest
        weights = table.weights[first : first + len(grads)]
        if [item._version for item in weights] != ctx.versions:
            raise RuntimeError("a quantized weight has been changed between its forward and its backward")
        if (own := chunk()) is not None:
            own.outputs = None
        of_weights, of_scales = table.gradients(grads, first, mode, key)
        return None, None, None, None, None, *of_weights, *of_scales, *[None] * len(grads)
