"""Mean and variance over frames, merged from parts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Count, mean and sum of squared deviations of each channel; float64.

    Args:
        count: frames.
        mean: `(C,)`.
        deviations: `M2`, sum of `(x - mean)^2`, `(C,)`.
    """

    count: int
    mean: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> Statistics:
        """The statistics of frames `(N, C)`."""
        frames = frames.double()
        mean = frames.mean(0)
        return cls(len(frames), mean, (frames - mean).square().sum(0))

    def merge(self, other: Statistics) -> Statistics:
        """Both parts together: `M2 = M2a + M2b + d^2 na nb / n` (Chan 1979); averaging variances would lose `d`.

        >>> import torch
        >>> a, b = Statistics.of(torch.tensor([[0.0]])), Statistics.of(torch.tensor([[2.0], [4.0]]))
        >>> float(a.merge(b).variance)
        4.0
        """
        count = self.count + other.count
        difference = other.mean - self.mean
        between = difference.square() * (self.count * other.count / count)
        mean = self.mean + difference * (other.count / count)
        return Statistics(count, mean, self.deviations + other.deviations + between)

    @property
    def variance(self) -> Tensor:
        """Unbiased, as BatchNorm keeps it."""
        return self.deviations / max(self.count - 1, 1)
