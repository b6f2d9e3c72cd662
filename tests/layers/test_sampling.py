"""Positions are drawn without replacement, in order, and only where there are many."""

from __future__ import annotations

import torch

from qat.layers.sampling import ROWS, drawn, sample


def test_few_positions_are_all_taken_and_draw_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(drawn(ROWS, generator), torch.arange(ROWS))
    rows = torch.randn(2, ROWS, 3)
    assert sample(rows, generator) is rows
    assert torch.equal(generator.get_state(), state)


def test_many_positions_are_thinned_alike_by_generators_of_one_state() -> None:
    some = drawn(3 * ROWS, torch.Generator().manual_seed(1))
    assert len(some) == ROWS == len(some.unique()) and torch.equal(some, some.sort().values)
    rows = torch.randn(2, 3 * ROWS, 4)
    assert torch.equal(sample(rows, torch.Generator().manual_seed(1)), rows[:, some])
