"""All weights of a model, quantized together where kernels take many in one launch.

They are quantized when the first of them is read in a step; a step of several batches, and a validation, read what is
there. What is kept for a weight says of which values, mode and noise it was made, so that nothing stale is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from qat.layers.quantizer import KeyedNoise
from qat.numerics.fused import straight_through, working_dtype
from qat.numerics.fused_weights import Chunk, Table, WeightMode
from qat.numerics.rounding import NoiseKey

TOGETHER = 16  # weights whose gradients share a launch; more would hold back what processes exchange


@dataclass(eq=False)
class Prepared:
    """What a group keeps of one weight.

    Attributes:
        weight: the Parameter; None before its first reading.
        made_of: what `values` depend on.
        values: fake-quantized.
        mode: how.
        chunk: that gives the values their gradient.
        number: of the weight in the chunk's table.
        read: what compiled code reads instead (`qat.layers.prepare`).
    """

    weight: Tensor | None = None
    made_of: tuple[Any, ...] = ()
    values: Tensor | None = None
    mode: WeightMode | None = None
    chunk: Chunk | None = None
    number: int = 0
    read: Tensor | None = None

    def __reduce__(self) -> tuple[type[Prepared], tuple[()]]:
        """A copy starts anew."""
        return Prepared, ()


class Member(Protocol):
    """What a group asks of the quantizer of a weight (`qat.layers.weight`)."""

    casts: bool
    is_enabled: bool
    scale: Tensor
    noise: KeyedNoise
    group: WeightGroup
    prepared: Prepared

    def is_grouped(self, x: Tensor) -> bool:
        """Whether the kernels quantize the weight `x`."""

    def mode(self, dtype: torch.dtype) -> WeightMode:
        """How, now."""

    def follow_(self, weight: Tensor) -> None:
        """Set the scale to the range of `weight`."""


class WeightGroup:
    """Weight quantizers whose weights are quantized together."""

    def __init__(self) -> None:
        self.members: WeakSet[Member] = WeakSet()
        self.tables: dict[tuple[Any, ...], Table] = {}

    def __getstate__(self) -> list[Member]:
        """A copy finds the copied weights itself."""
        return list(self.members)

    def __setstate__(self, members: list[Member]) -> None:
        self.members, self.tables = WeakSet(members), {}

    def add(self, quantizer: Member) -> None:
        """Take a quantizer in; it leaves the group that it was in."""
        if quantizer.group is not self:
            quantizer.group.members.discard(quantizer)
            quantizer.group = self
        self.members.add(quantizer)

    def quantized(self, quantizer: Member, weight: Tensor) -> Tensor:
        """`weight` as `quantizer` has it now, with its gradient."""
        prepared = quantizer.prepared
        mode = self.expect(quantizer, weight)
        if prepared.values is None or prepared.made_of != made_of(quantizer, weight, mode):
            self.prepare_()
        values = prepared.values
        assert values is not None
        if mode.passes:
            return straight_through(weight, values)
        scale = quantizer.scale
        if not (torch.is_grad_enabled() and (weight.requires_grad or scale.requires_grad)):
            return values
        assert prepared.chunk is not None
        return prepared.chunk.with_gradient(prepared.number)

    def expect(self, quantizer: Member, weight: Tensor) -> WeightMode:
        """Note what will be read, and how it is quantized now."""
        dtype = working_dtype(weight) if quantizer.casts else weight.dtype
        quantizer.prepared.weight, quantizer.prepared.mode = weight, quantizer.mode(dtype)
        return quantizer.prepared.mode

    @torch.no_grad()
    def prepare_(self) -> None:
        """Quantize all weights of which something has changed: one launch for each mode."""
        stale: dict[tuple[WeightMode, torch.device], list[Member]] = {}
        for quantizer in sorted(self.members, key=lambda member: member.noise.index):
            prepared = quantizer.prepared
            weight = prepared.weight
            if weight is None or not quantizer.is_enabled or not quantizer.is_grouped(weight):
                continue
            mode = quantizer.mode(prepared.mode.dtype if prepared.mode else weight.dtype)
            if prepared.values is None or prepared.made_of != made_of(quantizer, weight, mode):
                prepared.values, prepared.mode = None, mode
                stale.setdefault((mode, weight.device), []).append(quantizer)
        for (mode, _), quantizers in stale.items():
            self.fill_(quantizers, mode)

    def fill_(self, quantizers: list[Member], mode: WeightMode) -> None:
        """Quantize weights of one mode."""
        weights = [weight for item in quantizers if (weight := item.prepared.weight) is not None]
        if mode.covered and not mode.follows:
            for quantizer, weight in zip(quantizers, weights, strict=True):
                quantizer.follow_(weight)
        keys = [quantizer.noise.of() for quantizer in quantizers]
        table = self.table(quantizers, weights, keys)
        found = table.quantize(mode, keys[0])
        for number, (quantizer, weight, values) in enumerate(zip(quantizers, weights, found, strict=True)):
            if number % TOGETHER == 0:
                chunk = Chunk(table, number, found[number : number + TOGETHER], mode, keys[0])
            prepared = quantizer.prepared
            prepared.values, prepared.chunk, prepared.number = values, chunk, number
            prepared.made_of = made_of(quantizer, weight, mode)

    def table(self, quantizers: list[Member], weights: list[Tensor], keys: list[NoiseKey]) -> Table:
        """Where the weights lie; made anew when one of them has moved."""
        scales = [quantizer.scale for quantizer in quantizers]
        places = tuple(
            (weight.data_ptr(), weight.shape, scale.data_ptr(), key.stream)
            for weight, scale, key in zip(weights, scales, keys, strict=True)
        )
        if places not in self.tables:
            if len(self.tables) >= 8:  # training and evaluation, in a few dtypes
                self.tables.clear()
            self.tables[places] = Table(weights, scales, [int(key.stream) for key in keys])
        return self.tables[places]


def made_of(quantizer: Member, weight: Tensor, mode: WeightMode) -> tuple[Any, ...]:
    """What the values of a weight depend on: equal where they need not be computed again."""
    scale = None if mode.covered else (quantizer.scale.data_ptr(), quantizer.scale._version)
    noise = quantizer.noise.of() if mode.draws else None
    return (weight.data_ptr(), weight._version, mode, scale, noise)
