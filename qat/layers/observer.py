"""The histogram of an activation, as buffers of a module."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

from qat.layers.masking import padding, valid_values
from qat.numerics.histogram import BINS, Histogram, Measured, measure

COUNTED = 1 << 14  # values of one tensor counted at most: four million in a calibration on 256 utterances


class Observer(nn.Module):
    """Histogram of all values that one activation quantizer has seen.

    State: `counts` int64 `(1, bins)`, `exponent` int32 `(1,)`, `minimum` and `maximum` float32 `(1,)`.

    Args:
        bins: 0 keeps the extremes only.
    """

    counts: Tensor
    exponent: Tensor
    minimum: Tensor
    maximum: Tensor

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        empty = Histogram.empty(1, bins)
        for name in ("counts", "exponent", "minimum", "maximum"):
            self.register_buffer(name, getattr(empty, name))

    @property
    def histogram(self) -> Histogram:
        """A view of the buffers: what is added to it is added to them."""
        return Histogram(self.counts, self.exponent, self.minimum, self.maximum)

    def observe_(self, x: Tensor, time_axis: int) -> None:
        """Add the values of `x` outside padding.

        Layers that read the very same tensor (query, key and value projections) share the counting. Of a tensor
        with more than `COUNTED` values every k-th is counted k times, so that calibration costs little more than
        the forward it watches; the extremes are exact.
        """
        if not x.numel():
            return
        bins, exponents = self.counts.shape[1], self.exponent.tolist()
        found = _shared.get(x, time_axis, bins, exponents)
        if found is None:
            found = measure(valid_values(x, time_axis), 1, bins, exponents, COUNTED)
            _shared.put(x, time_axis, bins, found)
        self.histogram.add_(found, exponents)


class _LastMeasured:
    """The last tensor that was counted, and its counts; holds no reference that keeps the tensor alive."""

    def __init__(self) -> None:
        self.key: tuple[Any, ...] | None = None
        self.tensor: weakref.ref[Tensor] | None = None
        self.found: Measured | None = None

    def get(self, x: Tensor, time_axis: int, bins: int, exponents: list[int]) -> Measured | None:
        """Counts of `x` if they are the last and as wide as wanted."""
        if self.tensor is None or self.tensor() is not x or self.found is None or x.is_inference():
            return None
        same = self.key == (x._version, time_axis, bins, padding())
        wanted = list(map(max, self.found.needed, exponents))
        return self.found if same and self.found.exponents == wanted else None

    def put(self, x: Tensor, time_axis: int, bins: int, found: Measured) -> None:
        """Remember `found` for `x`."""
        if not x.is_inference():
            self.tensor, self.found = weakref.ref(x), found
            self.key = (x._version, time_axis, bins, padding())


_shared = _LastMeasured()
