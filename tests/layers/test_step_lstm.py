"""An LSTM for stepwise use: frame by frame as over a sequence, and nothing but an `nn.LSTM` to a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from qat.layers.step_lstm import QuantStepLSTM, StepLSTM
from tests.layers.recurrent import FORMS, built, forms


@forms
@torch.no_grad()
def test_steps_are_the_sequence_bit_for_bit(form: str) -> None:
    model, x = built("step_lstm", **FORMS[form])
    layer, state = model.layer, tuple(model.states)
    whole, last = layer(x, state)
    outputs = []
    for frame in x.unbind(1):
        output, state = layer.step(frame, state)
        outputs.append(output)
    assert torch.equal(torch.stack(outputs, 1), whole)
    assert all(torch.equal(one, two) for one, two in zip(state, last, strict=True))
    first, start = layer.step(x[:, 0])
    assert torch.equal(layer(x[:, :1])[0][:, 0], first) and start[0].shape == (2, len(x), 29)


@torch.no_grad()
def test_plain_steps_are_the_sequence() -> None:
    layer, x = StepLSTM(4, 3, 2), torch.randn(5, 6, 4)
    whole, last = layer(x)
    state = None
    for frame in range(6):
        output, state = layer.step(x[:, frame], state)
        torch.testing.assert_close(output, whole[:, frame], atol=1e-6, rtol=0)
    torch.testing.assert_close(state[1], last[1], atol=1e-6, rtol=0)


def test_it_takes_over_an_lstm_with_its_parameters_and_keys() -> None:
    plain = nn.LSTM(4, 3, 2, batch_first=True)
    layer, x = StepLSTM.from_lstm(plain), torch.randn(2, 5, 4)
    assert type(layer) is StepLSTM and torch.equal(layer(x)[0], plain(x)[0])
    assert all(one is two for one, two in zip(layer.parameters(), plain.parameters(), strict=True))
    assert list(StepLSTM(4, 3, 2).state_dict()) == list(plain.state_dict())


def test_a_cell_of_one_layer_is_a_step() -> None:
    model, x = built("step_lstm")
    assert isinstance(model.layer, QuantStepLSTM)
    names = [name for name, _, _ in model.layer.weights()]
    assert names == ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]
    assert [item.suffix for item in model.layer.products()] == [".l0", ".l1"]
