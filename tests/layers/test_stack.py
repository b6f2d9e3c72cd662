"""Stacks of cells over sequences: packing, layouts, noise of each frame, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from qat.layers.quantizer import StepKey
from qat.layers.stack import shifted, turned
from qat.layers.state import set_enabled_
from qat.layers.swap import set_step_key_
from tests.layers.recurrent import FRAMES, HIDDEN, built, flat

stacks = pytest.mark.parametrize("kind", ["step_lstm", "gru"])
LENGTHS = torch.tensor([2, 5, 1, 4])


def packed(x: Tensor) -> PackedSequence:
    return pack_padded_sequence(x[: len(LENGTHS)], LENGTHS, batch_first=True, enforce_sorted=False)


def given(states: list[Tensor], rows: Any) -> Any:
    chosen = tuple(state[:, rows] for state in states)
    return chosen if len(chosen) > 1 else chosen[0]


@stacks
@pytest.mark.parametrize("on", [True, False])
@torch.no_grad()
def test_a_packed_batch_equals_each_utterance_alone_and_off_equals_pytorch(kind: str, on: bool) -> None:
    model, x = built(kind)
    layer = model.layer
    set_enabled_(model, on)
    output, last = layer(packed(x), given(model.states, slice(0, 4)))
    together = pad_packed_sequence(output, batch_first=True)[0]
    for row, length in enumerate(LENGTHS.tolist()):
        alone, end = layer(x[row : row + 1, :length], given(model.states, slice(row, row + 1)))
        if on:
            assert torch.equal(together[row, :length], alone[0])
            assert all(
                torch.equal(one[:, row], two[:, 0]) for one, two in zip(flat(last), flat(end), strict=True)
            )
        else:
            torch.testing.assert_close(together[row, :length], alone[0], atol=1e-6, rtol=0)
    if not on:
        plain = layer.to_float()
        assert torch.equal(plain(packed(x), given(model.states, slice(0, 4)))[0].data, output.data)


@stacks
@torch.no_grad()
def test_time_first_unbatched_and_batch_first_agree(kind: str) -> None:
    model, x = built(kind)
    layer, states = model.layer, given(model.states, slice(None))
    expected, last = layer(x, states)
    single, end = layer(x[3], given(model.states, 3))
    assert torch.equal(single, expected[3])
    assert all(torch.equal(one, two[:, 3]) for one, two in zip(flat(end), flat(last), strict=True))
    layer.batch_first = False
    assert torch.equal(layer(x.transpose(0, 1), states)[0].transpose(0, 1), expected)


@stacks
@torch.no_grad()
def test_a_longer_batch_of_padding_changes_no_row(kind: str) -> None:
    """A row's own frames alone count: in training too, but for the order of float sums."""
    model, x = built(kind, rounding="nearest")
    whole = pad_packed_sequence(model.layer.train()(packed(x))[0], batch_first=True)[0]
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model.layer(x[row : row + 1, :length])[0][0]
        torch.testing.assert_close(whole[row, :length], alone, atol=1e-5, rtol=0)


@stacks
@torch.no_grad()
def test_each_frame_draws_noise_of_its_own_and_a_step_repeats(kind: str) -> None:
    model, x = built(kind, bits=3, rounding="stochastic", weight_observer="max")
    key = StepKey(seed=1)
    set_step_key_(model, key)
    layer = model.train().layer
    first = model(x)
    assert key.frame == 0
    assert all(torch.equal(one, two) for one, two in zip(model(x), first, strict=True))
    state = torch.full((40, HIDDEN), 0.1)
    with key.frames():
        draws = []
        for _ in range(3):
            key.frame += 1
            draws.append(layer.hidden_quantizer(state))
    assert key.frame == 0
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
    key.step = 1
    assert not torch.equal(model(x)[0], first[0])


@torch.no_grad()
def test_dropout_stands_between_layers_in_training_alone() -> None:
    model, x = built("step_lstm")
    layer = model.layer
    expected = layer(x)[0]
    layer.dropout = 0.5
    assert torch.equal(layer(x)[0], expected)
    torch.manual_seed(0)
    trained = layer.train()(x)[0]
    torch.manual_seed(1)
    assert not torch.equal(layer(x)[0], trained)


def test_states_before_each_frame_follow_the_direction() -> None:
    outputs = torch.arange(FRAMES)[None, :, None].repeat(1, 1, 2).float()
    first = torch.tensor([[[-1.0]], [[9.0]]])
    before = shifted(outputs, first)
    assert before[0, :, 0].tolist() == [-1, 0, 1, 2, 3] and before[1, :, 0].tolist() == [1, 2, 3, 4, 9]


def test_the_backward_direction_turns_each_row_within_its_length() -> None:
    x = torch.arange(8.0).reshape(2, 4, 1)
    assert turned(x, None, 0) is x
    assert turned(x, None, 1)[1, :, 0].tolist() == [7, 6, 5, 4]
    assert turned(x, torch.tensor([4, 2]), 1)[1, :2, 0].tolist() == [5, 4]
