"""Convolutions as products of windows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qat.layers.windows import matrix_of, sampled_windows, windows_of
from tests.layers.test_frames import LAYERS


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_positions_are_drawn_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same generator state draws the same positions on both sides."""
    monkeypatch.setattr("qat.layers.sampling.ROWS", 5)
    layer = nn.Conv1d(2, 3, 3)
    x = torch.randn(1, 2, 50)
    some, again = sampled_windows(layer, x, generator()), sampled_windows(layer, x, generator())
    assert some.shape == (1, 5, 6) and torch.equal(some, again)
    every = {tuple(row.tolist()) for row in x.unfold(2, 3, 1)[0].movedim(1, 0).reshape(-1, 6)}
    assert all(tuple(row.tolist()) in every for row in some[0])


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "linear"])
def test_windows_times_the_matrix_are_the_convolution(name: str) -> None:
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build(), torch.randn(shape)
    product = F.linear(windows_of(layer, x), matrix_of(layer.weight), layer.bias).transpose(1, 2)
    torch.testing.assert_close(product, layer(x))
