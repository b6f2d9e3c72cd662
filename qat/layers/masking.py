"""Which time positions of a padded batch are speech, for every statistic in reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_VALID: ContextVar[tuple[Tensor, int] | None] = ContextVar("valid_lengths", default=None)


@contextmanager
def valid_lengths(lengths: Tensor, total: int) -> Iterator[None]:
    """While active, activation observers leave out the padding of every batched layer input.

    A layer with `T` time positions keeps the first `ceil(T * length / total)` of each row; inputs without a batch
    of the same size (packed sequences, 2-D) are taken whole.

    Args:
        lengths: valid samples or frames `(B,)`.
        total: padded length in the same unit.
    """
    token = _VALID.set((lengths, total) if lengths.numel() > 1 else None)
    try:
        yield
    finally:
        _VALID.reset(token)


def valid_values(x: Tensor, time_axis: int) -> Tensor:
    """The values of `x` outside padding, flat; `x` itself where nothing is masked.

    Args:
        x: `(B, ...)` with time along `time_axis` (negative).
        time_axis: -2 for `(B, T, F)`, -1 for `(B, C, T)` and `(B, C, F, T)`.
    """
    valid = _VALID.get()
    if valid is None or x.ndim < 3 or x.shape[0] != len(valid[0]):
        return x
    lengths, total = valid
    frames = x.shape[time_axis]
    counts = [min(frames, -(-frames * length // total)) for length in lengths.tolist()]
    if min(counts) == frames:
        return x
    rows = [row.narrow(time_axis, 0, count).reshape(-1) for row, count in zip(x, counts, strict=True)]
    return torch.cat(rows)
