"""Mean and variance merged from parts."""

from __future__ import annotations

import torch

from qat.numerics.statistics import Statistics


def test_parts_of_any_size_merge_to_the_whole() -> None:
    torch.manual_seed(0)
    frames = torch.randn(101, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 100.0, -5.0])
    parts = [Statistics.of(part) for part in frames.split([1, 40, 7, 53])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.count == 101
    torch.testing.assert_close(merged.mean, frames.double().mean(0))
    torch.testing.assert_close(merged.variance, frames.double().var(0))


def test_the_order_does_not_matter() -> None:
    one, two = Statistics.of(torch.randn(5, 2)), Statistics.of(torch.randn(9, 2) + 3)
    torch.testing.assert_close(one.merge(two).variance, two.merge(one).variance)
