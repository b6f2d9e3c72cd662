"""Padding takes no part in ranges."""

from __future__ import annotations

import pytest
import torch

from qat.layers.masking import valid_lengths
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
