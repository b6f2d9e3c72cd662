"""Padding takes no part in ranges."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from datamodules.shortest import SHORTEST
from qat.layers.masking import at_least_shortest, mirrored, valid_lengths
from qat.layers.state import (
    set_observing_,
)
from qat.layers.swap import swap_
from tests.layers.hosts import host, recipe


@pytest.mark.parametrize("layer_kind,time", [("linear", 1), ("conv1d", 2), ("conv2d", 3)])
@pytest.mark.parametrize("observer", ["max", "mse"])
def test_padding_is_left_out_of_activation_ranges(layer_kind: str, time: int, observer: str) -> None:
    model, x = host(layer_kind)
    swap_(model, recipe(activation_observer=observer))
    quantizer, frames = model.layer.input_quantizer, x.shape[time]
    lengths = torch.tensor([1000, 400, 700][: len(x)])
    counts = [-(-frames * length // 1000) for length in lengths.tolist()]
    for row, count in zip(x, counts, strict=True):
        row.narrow(time - 1, count, frames - count).fill_(99.0)
    set_observing_(model, True)
    with torch.no_grad(), valid_lengths(lengths, 1000):
        model(x)
    quantizer.finish_calibration_("padded")
    padded = (quantizer.scale.clone(), quantizer.zero_point.clone())
    assert float(quantizer.observer.maximum) < 10
    quantizer.observer.histogram.clear_()
    with torch.no_grad():
        for row, count in zip(x, counts, strict=True):
            model(row.narrow(time - 1, 0, count)[None])
    quantizer.finish_calibration_("unpadded")
    assert torch.equal(quantizer.scale, padded[0]) and torch.equal(quantizer.zero_point, padded[1])


@pytest.mark.parametrize("width", [1, 2])
def test_a_row_of_a_padded_batch_is_mirrored_at_its_own_end(width: int) -> None:
    frames = torch.tensor([9, 8, 4, 3])
    x = torch.rand(4, 9, 2, 3, requires_grad=True)
    found = mirrored(x, frames, width)
    assert mirrored(x, torch.tensor([9, 9, 9, 9]), width) is x
    for row, count in enumerate(frames.tolist()):
        reach = min(count + width, 9)
        alone = F.pad(x[row, :count].movedim(0, -1), (0, width), mode="reflect").movedim(-1, 0)
        assert torch.equal(found[row, :reach], alone[:reach])
        assert torch.equal(found[row, reach:], x[row, reach:])
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0], torch.ones(9, 2, 3))
    assert torch.equal(x.grad[2, :, 0, 0], torch.tensor([1.0, 1 + (width > 1), 2, 1, 0, width == 1, 1, 1, 1]))


def test_one_frame_has_nothing_to_mirror_but_itself() -> None:
    x = torch.rand(1, 5, 2)
    assert torch.equal(mirrored(x, torch.tensor([1]), 2), x[:, [0, 0, 0, 3, 4]])


def test_audio_below_the_shortest_is_padded_and_other_audio_is_not() -> None:
    x = torch.rand(2, SHORTEST)
    assert at_least_shortest(x) is x
    assert torch.equal(at_least_shortest(x[:, :7]), F.pad(x[:, :7], (0, SHORTEST - 7)))
