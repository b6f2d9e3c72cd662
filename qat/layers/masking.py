"""Which time positions of a padded batch are speech, for every statistic in reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.shortest import SHORTEST


class Padding:
    """Valid lengths of the running batch; read back from the device only if an observer asks."""

    def __init__(self, lengths: Tensor, total: int) -> None:
        self.rows = lengths.shape[0]  # not len(): an export keeps the batch free
        self.total = total
        self._lengths = lengths
        self._list: list[int] | None = None

    @property
    def lengths(self) -> list[int]:
        """Valid positions of each row, of `total`."""
        if self._list is None:
            self._list = self._lengths.tolist()
        return self._list


_PADDING: ContextVar[Padding | None] = ContextVar("padding", default=None)


@contextmanager
def valid_lengths(lengths: Tensor, total: int) -> Iterator[None]:
    """While active, activation observers leave out the padding of every batched layer input.

    A layer with `T` time positions keeps the first `ceil(T * length / total)` of each row; inputs without a batch
    of the same size (packed sequences, 2-D) are taken whole.

    Args:
        lengths: valid samples or frames `(B,)`.
        total: padded length in the same unit.
    """
    token = _PADDING.set(Padding(lengths, total) if lengths.numel() > 1 else None)
    try:
        yield
    finally:
        _PADDING.reset(token)


def padding() -> Padding | None:
    """The padding of the running batch; None where nothing is masked."""
    return _PADDING.get()


def valid_values(x: Tensor, time_axis: int) -> Tensor:
    """The values of `x` outside padding, flat; `x` itself where nothing is masked.

    Args:
        x: `(B, ...)` with time along `time_axis`.
        time_axis: -2 for `(B, T, F)`, -1 for `(B, C, T)` and `(B, C, F, T)`.
    """
    valid = padding()
    if valid is None or x.ndim < 3 or x.shape[0] != valid.rows:
        return x
    frames = x.shape[time_axis]
    counts = [min(frames, -(-frames * length // valid.total)) for length in valid.lengths]
    if min(counts) == frames:
        return x
    rows = [row.narrow(time_axis, 0, count).reshape(-1) for row, count in zip(x, counts, strict=True)]
    return torch.cat(rows)


def frame_mask(frames: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """Boolean `(B, T)`, on the device of `x`: True where the frame index is below `frames`.

    Args:
        frames: valid frames `(B,)`, on any device.
        x: what is masked, with time along `axis`.
        axis: of time.
    """
    frames = to_device_of(x, frames)
    return torch.arange(x.shape[axis], device=frames.device)[None, :] < frames[:, None]


def to_device_of(x: Tensor, values: Tensor) -> Tensor:
    """`values` on the device of `x`. Lengths lie on the CPU: copied to a GPU they keep nobody waiting, read from one
    they would make the CPU wait for all that it has asked for before."""
    if values.device == x.device:
        return values
    return values.to(x.device, non_blocking=x.device.type != "cpu")


def at_least_shortest(signal: Tensor) -> Tensor:
    """Samples `(B, S)`, with zeros after them where they are fewer than `SHORTEST`."""
    missing = SHORTEST - signal.shape[1]
    return F.pad(signal, (0, missing)) if missing > 0 else signal


def mirrored(x: Tensor, frames: Tensor, width: int) -> Tensor:
    """`x` with what a convolution that mirrors the end of its input reads after an utterance alone: frame `n + k` of a
    row of `n` valid frames becomes frame `n - 2 - k`. `x` itself where every row is whole.

    Args:
        x: `(B, T, ...)`.
        frames: valid frames `(B,)`, at least 1; on the CPU where nothing is to wait for a GPU.
        width: how many frames after the end a convolution reads.
    """
    if not torch.compiler.is_exporting() and int(frames.min()) >= x.shape[1]:
        return x
    frames = to_device_of(x, frames)
    rows = torch.arange(x.shape[0], device=x.device)
    for step in range(width):
        place = (frames + step).clamp(max=x.shape[1] - 1)
        source = torch.minimum(place, 2 * (frames - 1) - place).clamp(min=0)
        x = x.index_put((rows, place), x[rows, source])
    return x
