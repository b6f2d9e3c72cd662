"""The placeholders of exported operators have the shapes and types of what PyTorch computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qat.runtime import operators

SCALE, ZERO = torch.tensor(0.5), torch.tensor(3, dtype=torch.uint8)


def test_quantized_tensors_keep_their_shape() -> None:
    x = torch.zeros(2, 5)
    levels = operators.quantize(x, SCALE, ZERO, 0, 15)
    assert (levels.shape, levels.dtype) == (x.shape, torch.uint8)
    assert operators.clip(levels, 0, 15).dtype == torch.uint8
    back = operators.dequantize(levels, SCALE, ZERO)
    assert (back.shape, back.dtype) == (x.shape, torch.float32)


def test_rows_may_have_a_scale_each_and_other_axes() -> None:
    x, scale = torch.zeros(2, 5, 8), torch.ones(2, 5, 1)
    levels = operators.quantize(x, scale, torch.zeros(2, 5, 1, dtype=torch.uint8))
    assert (levels.shape, levels.dtype) == (x.shape, torch.uint8)
    assert operators.reshape(x, (0, 0, 1, -1), (2, 5, 1, 8)).shape == (2, 5, 1, 8)


def test_linear_layers_have_the_shape_of_pytorchs() -> None:
    levels, weight = torch.zeros(2, 5, 8, dtype=torch.uint8), torch.zeros(8, 3, dtype=torch.int8)
    expected = F.linear(levels.float(), weight.t().float())
    out = operators.linear(levels, SCALE, ZERO, weight, torch.ones(3), None)
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    packed, scale = torch.zeros(3, 1, 8, dtype=torch.uint8), torch.ones(3, 1)
    assert operators.packed_linear(torch.zeros(2, 5, 8), packed, scale, None, 8, 16).shape == expected.shape


@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, 0), (2, 1, 1), (1, 2, 2), (3, 2, 1)])
def test_convolutions_have_the_shape_of_pytorchs(stride: int, dilation: int, padding: int) -> None:
    x, weight = torch.zeros(2, 4, 17, dtype=torch.uint8), torch.zeros(6, 2, 3, dtype=torch.int8)
    expected = F.conv1d(x.float(), weight.float(), None, stride, padding, dilation, 2)
    out = operators.conv(
        *(x, SCALE, ZERO, weight, torch.ones(6), SCALE, ZERO, None),
        stride=[stride],
        padding=[padding, padding],
        dilation=[dilation],
        groups=2,
    )
    assert (out.shape, out.dtype) == (expected.shape, torch.uint8)
    frames = F.conv1d(x.float(), torch.zeros(6, 4, 3), None, stride, 0, dilation).shape[2]
    taps = operators.taps(x.float().transpose(1, 2), 3, dilation, stride)
    assert [tap.shape for tap in taps] == [(2, frames, 4)] * 3
    assert operators.max_pool(x.float(), 3, dilation, stride).shape == (2, 4, frames)


@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_have_the_shape_of_pytorchs(directions: int) -> None:
    x, frames = torch.zeros(7, 2, 5), torch.tensor([7, 4], dtype=torch.int32)
    expected = torch.nn.LSTM(5, 3, bidirectional=directions == 2)(x)[0].shape
    plain = operators.lstm(
        x,
        torch.zeros(directions, 12, 5),
        torch.zeros(directions, 12, 3),
        torch.zeros(directions, 24),
        frames,
    )
    scale = torch.ones(directions, 12)
    integer = operators.integer_lstm(
        x,
        torch.zeros(directions, 5, 12, dtype=torch.int8),
        scale,
        torch.zeros(directions, 3, 12, dtype=torch.int8),
        scale,
        torch.zeros(directions, 24),
        frames,
    )
    assert plain.shape == integer.shape == (7, directions, 2, 3)
    assert plain.transpose(1, 2).flatten(2).shape == expected


def test_the_recurrence_of_a_gru_keeps_frames_and_rows() -> None:
    sums, weight = torch.zeros(7, 2, 12), torch.zeros(4, 12, dtype=torch.int8)
    ranges = [torch.ones(()), torch.zeros((), dtype=torch.uint8), torch.ones(12)]
    out = operators.gru(sums, weight, torch.zeros(12), ranges, (0, 255))
    assert (out.shape, out.dtype) == ((7, 2, 4), torch.float32)
